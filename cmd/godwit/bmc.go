package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

func newBMCCommand(a *access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "bmc", Short: "How hosts are turned off and on: their baseboard management controllers",
		Long: "A dead host's servers that nothing else keeps from harm start elsewhere only when its BMC says that it is off.",
	}
	cmd.AddCommand(a.bmcSet(), a.bmcShow(), a.bmcTest(), a.bmcDelete())
	return cmd
}

func (a *access) bmcSet() *cobra.Command {
	var s client.BMCSettings
	var passwordFile, caFile string
	cmd := &cobra.Command{
		Use: "set HOST", Short: "Say how a host's BMC is reached", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Long: "The password is read from a file, or from standard input with -, and is never shown. Without --password-file the one that is known stays.",
		Example: "  godwit hosts bmc set compute-2 --address 192.0.2.12 --user fence --password-file ./secret\n" +
			"  godwit hosts bmc set compute-3 --protocol redfish --address https://192.0.2.13 --user fence --password-file -",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if passwordFile != "" {
				text, err := readSecret(cmd.InOrStdin(), passwordFile)
				if err != nil {
					return err
				}
				s.Password = &text
			}
			if caFile != "" {
				pem, err := os.ReadFile(caFile)
				if err != nil {
					return cloud.Errorf(cloud.KindInvalid, "--ca: %w", err)
				}
				s.CA = string(pem)
			}
			b, err := c.SetBMC(cmd.Context(), args[0], s)
			if err != nil {
				return err
			}
			return a.printBMC(cmd.OutOrStdout(), b)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&s.Protocol, "protocol", "ipmi", "ipmi or redfish")
	f.StringVar(&s.Address, "address", "", "ipmi: IP[:port]; redfish: https://host[:port]")
	f.StringVar(&s.User, "user", "", "user name")
	f.StringVar(&passwordFile, "password-file", "", "file with the password; - reads standard input")
	f.IntVar(&s.Cipher, "cipher", 0, "ipmi: cipher suite; 0: the usual one (3)")
	f.StringVar(&s.System, "system", "", "redfish: id of the system; empty: the only one")
	f.StringVar(&caFile, "ca", "", "redfish: PEM file of the authority that signed the BMC's certificate")
	_ = cmd.MarkFlagRequired("address") // the flag is there
	return cmd
}

// readSecret reads a secret's first line.
func readSecret(stdin io.Reader, path string) (string, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", cloud.Errorf(cloud.KindInvalid, "--password-file: %w", err)
		}
		defer f.Close()
		in = f
	}
	const secretMax = 4096
	raw, err := io.ReadAll(io.LimitReader(in, secretMax))
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSuffix(line, "\r"), err
}

func (a *access) bmcShow() *cobra.Command {
	return &cobra.Command{
		Use: "show HOST", Short: "Show how a host's BMC is reached and what it last said", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Example: "  godwit hosts bmc show compute-2",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			b, err := c.BMC(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printBMC(cmd.OutOrStdout(), b)
		}),
	}
}

func (a *access) bmcTest() *cobra.Command {
	return &cobra.Command{
		Use: "test HOST", Short: "Read a host's power state from its BMC; changes nothing", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Long:    "Reads the power state, from the machine on which the API server runs. A BMC that does not answer is a failure, because it could fence nothing.",
		Example: "  godwit hosts bmc test compute-2",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			b, err := c.TestBMC(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.printBMC(cmd.OutOrStdout(), b); err != nil {
				return err
			}
			if b.Error != "" {
				return cloud.Errorf(cloud.KindUnavailable, "the BMC of %s confirms nothing: %s", b.Host, b.Error)
			}
			return nil
		}),
	}
}

func (a *access) bmcDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete HOST", Short: "Forget a host's BMC", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Long:    "Without --yes it shows what would be forgotten and changes nothing: a host without a BMC cannot be fenced by power.",
		Example: "  godwit hosts bmc delete compute-2 --yes",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if yes {
				return c.DeleteBMC(cmd.Context(), args[0])
			}
			b, err := c.BMC(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.printBMC(cmd.OutOrStdout(), b); err != nil || a.out.json() {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "\nnothing was changed; --yes forgets it")
			return err
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (a *access) printBMC(w io.Writer, b operator.BMC) error {
	t := table{header: []string{"HOST", "PROTOCOL", "ADDRESS", "USER", "PASSWORD", "CIPHER", "POWER", "CONFIRMED", "ERROR"}}
	password, cipher, confirmed := "not set", "", ""
	if b.PasswordSet {
		password = "set"
	}
	if b.Cipher != 0 {
		cipher = strconv.Itoa(b.Cipher)
	}
	if !b.Confirmed.IsZero() {
		confirmed = b.Confirmed.Local().Format(time.DateTime)
	}
	t.add(string(b.Host), b.Protocol, b.Address, b.User, password, cipher, b.Power, confirmed, b.Error)
	return a.out.print(w, b, t)
}
