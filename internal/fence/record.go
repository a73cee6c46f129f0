package fence

import "github.com/godwit-cloud/godwit/internal/cloud"

// SettingsOf are how the BMC of a record is reached.
func SettingsOf(b *cloud.BMC) Settings {
	return Settings{Protocol: b.Protocol, Address: b.Address, User: b.User, Password: b.Password, Cipher: b.Cipher, System: b.System, CA: b.CA}
}
