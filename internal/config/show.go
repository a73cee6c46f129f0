package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// hidden stands for a secret's value.
const hidden = "(hidden)"

// WriteYAML writes the effective settings as a file that Load reads, each with its origin as a comment. Secrets are not shown.
func (l *Loaded) WriteYAML(w io.Writer) error {
	var b strings.Builder
	section := ""
	for _, s := range l.Settings() {
		if s.Section != section {
			section = s.Section
			fmt.Fprintf(&b, "%s:\n", section)
		}
		origin := l.Origins[s.Path()]
		if origin == "" {
			origin = "default"
		}
		text := s.yamlText()
		if s.Secret && s.Text() != "" {
			text = strconv.Quote(hidden)
		}
		fmt.Fprintf(&b, "  %s: %s # %s\n", s.Key, text, origin)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Values returns the effective settings and their origins by Path, without secrets: for machines.
func (l *Loaded) Values() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, s := range l.Settings() {
		text, origin := s.Text(), l.Origins[s.Path()]
		if s.Secret && text != "" {
			text = hidden
		}
		if origin == "" {
			origin = "default"
		}
		out[s.Path()] = map[string]string{"value": text, "origin": origin}
	}
	return out
}

// yamlText returns the value as YAML: strings quoted, lists in brackets.
func (s Setting) yamlText() string {
	switch v := s.value.Interface().(type) {
	case string:
		return strconv.Quote(v)
	case Backends:
		return v.yamlText()
	case []string:
		quoted := make([]string, len(v))
		for i, item := range v {
			quoted[i] = strconv.Quote(item)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return s.Text()
}

// Markdown returns docs/configuration.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Written by "go generate ./internal/config"; edit internal/config/config.go. -->

One file, ` + "`" + DefaultFile + "`" + ` unless ` + "`--config`" + ` or ` + "`" + EnvFile + "`" + ` names another. The environment overrides the file,
flags override both. ` + "`godwit config check [FILE]`" + ` finds mistakes, ` + "`godwit config show`" + ` prints every setting with its origin.
An unknown section, key or variable is an error.

Durations are written ` + "`300ms`, `10s`, `5m`" + `; sizes ` + "`512`, `64KiB`, `100MiB`, `2GiB`" + `; lists as YAML lists or separated by commas.
`)
	names, usages := sectionUsage()
	c := Default()
	settings := c.Settings()
	for i, name := range names {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | environment | default | meaning |\n|---|---|---|---|\n", name, usages[i])
		for _, s := range settingsOf(settings, name) {
			text := s.Text()
			if text != "" {
				text = "`" + text + "`"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", s.Key, s.Env(), text, s.Usage)
		}
	}
	return b.String()
}
