package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// DefaultFile is read when no other file is named; it may be absent.
	DefaultFile = "/etc/godwit/godwit.yaml"
	// EnvFile names the file when --config does not.
	EnvFile   = "GODWIT_CONFIG"
	envPrefix = "GODWIT_"
)

// Sources say where settings come from.
type Sources struct {
	File    string         // empty: GODWIT_CONFIG, else DefaultFile if it exists
	Environ []string       // "NAME=value", as os.Environ
	Flags   *pflag.FlagSet // may be nil; only flags that were given count
	Main    string         // the section whose flags carry no section name
}

// A Loaded is a Config and where each of its values came from.
type Loaded struct {
	Config
	File    string            // the file that was read, empty when none
	Origins map[string]string // Setting.Path -> "file:12", "GODWIT_...", "--flag"; absent: default
}

// Load reads all sources and returns every mistake it finds, joined, as cloud.KindInvalid. It does not Validate.
func Load(src Sources) (*Loaded, error) {
	l := &Loaded{Config: Default(), Origins: map[string]string{}}
	settings := l.Settings()
	fileErr := l.loadFile(src, settings)
	err := errors.Join(fileErr, l.loadEnv(src.Environ, settings), l.loadFlags(src, settings))
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "configuration", "", err)
	}
	return l, nil
}

func (l *Loaded) loadFile(src Sources, settings []Setting) error {
	path, named := src.File, true
	if path == "" {
		path = lookupEnv(src.Environ, EnvFile)
	}
	if path == "" {
		path, named = DefaultFile, false
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read file: %w (name another with --config)", err)
	}
	l.File = path
	return applyYAML(raw, path, settings, l.Origins)
}

func lookupEnv(environ []string, name string) string {
	for _, e := range environ {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

func (l *Loaded) loadEnv(environ []string, settings []Setting) error {
	var errs []error
	byEnv := map[string]Setting{}
	var names []string
	for _, s := range settings {
		byEnv[s.Env()] = s
		names = append(names, s.Env())
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		s, known := byEnv[name]
		switch {
		case known:
			if err := s.Set(value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
				continue
			}
			l.Origins[s.Path()] = name
		case claimsSection(name):
			errs = append(errs, fmt.Errorf("environment variable %s is no setting%s", name, didYouMean(name, names)))
		}
	}
	return errors.Join(errs...)
}

// claimsSection reports whether the variable looks like a setting: others that begin with GODWIT_ belong to tests and scripts.
func claimsSection(name string) bool {
	sections, _ := sectionUsage()
	return slices.ContainsFunc(sections, func(s string) bool {
		return strings.HasPrefix(name, envPrefix+strings.ToUpper(s)+"_")
	})
}

func (l *Loaded) loadFlags(src Sources, settings []Setting) error {
	if src.Flags == nil {
		return nil
	}
	var errs []error
	for _, s := range settings {
		f := src.Flags.Lookup(s.Flag(src.Main))
		if f == nil || !f.Changed {
			continue
		}
		if _, ours := f.Value.(*flagValue); !ours {
			continue
		}
		if err := s.Set(f.Value.String()); err != nil {
			errs = append(errs, fmt.Errorf("flag --%s: %w", f.Name, err))
			continue
		}
		l.Origins[s.Path()] = "--" + f.Name
	}
	return errors.Join(errs...)
}

// AddFlags defines a flag for every setting of the sections, the first of which is the command's own.
func AddFlags(flags *pflag.FlagSet, sections ...string) {
	c := Default()
	for _, s := range c.Settings() {
		if slices.Contains(sections, s.Section) {
			f := flags.VarPF(&flagValue{setting: s}, s.Flag(sections[0]), "", s.Usage)
			if s.Type() == "bool" {
				f.NoOptDefVal = "true"
			}
		}
	}
}

// flagValue checks a flag's text at once by setting it on a Config of its own; Load sets the real one.
type flagValue struct{ setting Setting }

// String returns the flag's text.
func (v *flagValue) String() string {
	if !v.setting.value.IsValid() {
		return "" // pflag asks a zero value
	}
	return v.setting.Text()
}

// Set parses the text.
func (v *flagValue) Set(text string) error { return v.setting.Set(text) }

// Type returns the word shown in help.
func (v *flagValue) Type() string { return v.setting.Type() }
