package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// applyYAML sets what the file says and records the lines. It collects mistakes instead of stopping at the first.
func applyYAML(raw []byte, path string, settings []Setting, origins map[string]string) error {
	var doc, more yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(raw))
	if err := documents.Decode(&doc); errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return nil // an empty file
	} else if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := documents.Decode(&more); err == nil {
		return fmt.Errorf("%s:%d: a second YAML document begins here; put all sections into the first", path, more.Line)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want sections such as \"server:\" at the top", path, root.Line)
	}
	sections, _ := sectionUsage()
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, body := root.Content[i], root.Content[i+1]
		known := settingsOf(settings, name.Value)
		switch {
		case known == nil:
			errs = append(errs, fmt.Errorf("%s:%d: unknown section %q%s", path, name.Line, name.Value, didYouMean(name.Value, sections)))
		case body.Kind == yaml.ScalarNode && body.Tag == "!!null":
			// "server:" with nothing below
		case body.Kind != yaml.MappingNode:
			errs = append(errs, fmt.Errorf("%s:%d: section %q must hold settings, one a line", path, body.Line, name.Value))
		default:
			errs = append(errs, applySection(body, path, known, origins)...)
		}
	}
	return errors.Join(errs...)
}

func applySection(body *yaml.Node, path string, known []Setting, origins map[string]string) []error {
	byKey, names, seen := map[string]Setting{}, []string{}, map[string]int{}
	for _, s := range known {
		byKey[s.Key] = s
		names = append(names, s.Key)
	}
	var errs []error
	for i := 0; i+1 < len(body.Content); i += 2 {
		key, value := body.Content[i], body.Content[i+1]
		s, ok := byKey[key.Value]
		if !ok {
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q in section %q%s", path, key.Line, key.Value, known[0].Section,
				didYouMean(key.Value, names)))
			continue
		}
		if line := seen[s.Key]; line > 0 {
			errs = append(errs, fmt.Errorf("%s:%d: %s was already set on line %d", path, key.Line, s.Path(), line))
			continue
		}
		seen[s.Key] = key.Line
		text, err := scalarText(value, s)
		if err == nil {
			err = s.Set(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %s: %w", path, value.Line, s.Path(), err))
			continue
		}
		origins[s.Path()] = fmt.Sprintf("%s:%d", path, key.Line)
	}
	return errs
}

// scalarText returns the node's text; a sequence becomes a comma-separated list.
func scalarText(n *yaml.Node, s Setting) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", nil
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode && s.Type() == "back ends":
		return backendsText(n)
	case n.Kind == yaml.SequenceNode && s.Type() == "list":
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("want a list of plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("want a %s", s.Type())
}

func settingsOf(settings []Setting, section string) []Setting {
	var out []Setting
	for _, s := range settings {
		if s.Section == section {
			out = append(out, s)
		}
	}
	return out
}

// typoDistanceMax: further apart than this, two names are two names and a suggestion would mislead.
const typoDistanceMax = 4

// didYouMean returns " (did you mean X?)" for the nearest of names, or nothing when none is near.
func didYouMean(got string, names []string) string {
	best, bestDistance := "", typoDistanceMax+1
	for _, n := range names {
		if d := distance(got, n); d < bestDistance && d < len(n) {
			best, bestDistance = n, d
		}
	}
	if best == "" {
		return "; known are: " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is Levenshtein's: how many letters must be added, removed or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
