package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// cloudName is the name of the cloud in clouds.yaml: clients pick it with --os-cloud or OS_CLOUD.
const cloudName = "godwit"

// credentialFiles are the administrator's openrc and clouds.yaml.
type credentialFiles struct {
	dir      string
	url      string // public URL
	region   string
	password string
}

func (f credentialFiles) paths() (openrc, clouds string) {
	return filepath.Join(f.dir, "openrc"), filepath.Join(f.dir, "clouds.yaml")
}

func (f credentialFiles) authURL() string { return strings.TrimRight(f.url, "/") + "/identity/v3" }

// cloudsYAML is the part of clouds.yaml we write and read back.
type cloudsYAML struct {
	Clouds map[string]cloudYAML `yaml:"clouds"`
}

type cloudYAML struct {
	Auth     authYAML `yaml:"auth"`
	Region   string   `yaml:"region_name"`
	API      string   `yaml:"identity_api_version"`
	Image    string   `yaml:"image_api_version"`
	Endpoint string   `yaml:"interface"`
}

type authYAML struct {
	URL           string `yaml:"auth_url"`
	Username      string `yaml:"username"`
	Password      string `yaml:"password"`
	Project       string `yaml:"project_name"`
	UserDomain    string `yaml:"user_domain_name"`
	ProjectDomain string `yaml:"project_domain_name"`
}

func (f credentialFiles) clouds() cloudsYAML {
	return cloudsYAML{Clouds: map[string]cloudYAML{cloudName: {
		Auth: authYAML{URL: f.authURL(), Username: adminName, Password: f.password, Project: adminName,
			UserDomain: domainDefaultName, ProjectDomain: domainDefaultName},
		Region: f.region, API: "3", Image: "2", Endpoint: "public",
	}}}
}

// openrc sets what openstack, nova and the other stock clients read.
func (f credentialFiles) openrc() string {
	var b strings.Builder
	b.WriteString("# Credentials of godwit's administrator. Read by: . openrc\n")
	// A second file of another cloud sourced before must not shine through.
	b.WriteString("unset OS_CLOUD OS_TOKEN OS_PROJECT_ID OS_TENANT_NAME OS_DOMAIN_NAME OS_SYSTEM_SCOPE OS_AUTH_TYPE\n")
	for _, v := range [][2]string{
		{"OS_AUTH_URL", f.authURL()},
		{"OS_USERNAME", adminName},
		{"OS_PASSWORD", f.password},
		{"OS_PROJECT_NAME", adminName},
		{"OS_USER_DOMAIN_NAME", domainDefaultName},
		{"OS_PROJECT_DOMAIN_NAME", domainDefaultName},
		{"OS_REGION_NAME", f.region},
		{"OS_INTERFACE", "public"},
		{"OS_ENDPOINT_TYPE", "publicURL"},
		{"OS_IDENTITY_API_VERSION", "3"},
		{"OS_IMAGE_API_VERSION", "2"},
	} {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	return b.String()
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// write writes both files, each whole or not at all.
func (f credentialFiles) write() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("credentials directory: %w", err)
	}
	clouds, err := yaml.Marshal(f.clouds())
	if err != nil {
		return fmt.Errorf("encode clouds.yaml: %w", err)
	}
	openrcPath, cloudsPath := f.paths()
	if err := writePrivate(openrcPath, []byte(f.openrc())); err != nil {
		return err
	}
	return writePrivate(cloudsPath, clouds)
}

// refresh brings existing files up to date with the URL and region, keeping their password. It reports whether the files are there.
func (f credentialFiles) refresh() (bool, error) {
	openrcPath, cloudsPath := f.paths()
	data, err := os.ReadFile(cloudsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read credentials: %w", err)
	}
	var have cloudsYAML
	if err := yaml.Unmarshal(data, &have); err != nil {
		return false, fmt.Errorf("read credentials: %s: %w", cloudsPath, err)
	}
	known := have.Clouds[cloudName]
	f.password = known.Auth.Password
	if f.password == "" {
		return false, nil // somebody's own file
	}
	openrc, err := os.ReadFile(openrcPath)
	if err == nil && string(openrc) == f.openrc() && known == f.clouds().Clouds[cloudName] {
		return true, nil
	}
	return true, f.write()
}

// writePrivate replaces a file by one of mode 0600 with the data, durably.
func writePrivate(path string, data []byte) (err error) {
	t, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600 from the start
	if err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	defer func() {
		if err != nil {
			t.Close()
			os.Remove(t.Name())
			err = fmt.Errorf("write credentials: %w", err)
		}
	}()
	if _, err = t.Write(data); err != nil {
		return err
	}
	if err = t.Sync(); err != nil {
		return err
	}
	if err = t.Close(); err != nil {
		return err
	}
	return os.Rename(t.Name(), path)
}
