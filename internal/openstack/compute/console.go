package compute

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// consoleBody is the body of the action os-getConsoleOutput.
type consoleBody struct {
	Console struct {
		Length consoleLength `json:"length"`
	} `json:"os-getConsoleOutput" api:"required"`
}

// consoleLength is a number of lines; null and -1 mean all.
type consoleLength int

// BindJSON implements openstack.Binder.
func (n *consoleLength) BindJSON(v any) error {
	text := ""
	switch v := v.(type) {
	case nil:
		return nil
	case json.Number:
		text = v.String()
	case string:
		text = v
		if !decimal.MatchString(v) {
			return openstack.Refuse(v, "does not match '^-?[0-9]+$'")
		}
	default:
		return openstack.Mismatch(v, "integer", "string", "null")
	}
	i, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return openstack.Mismatch(v, "integer", "string", "null")
	case i < -1:
		return openstack.Refuse(json.Number(text), "is less than the minimum of -1")
	case i == 0:
		i = zeroLines
	}
	*n = consoleLength(i)
	return nil
}

// zeroLines marks a request for no lines at all, which the host's "0 means all" cannot say.
const zeroLines = -2

// consoleOutput asks the server's host for its console, the one answer that waits for a host.
func (c *call) consoleOutput(s *cloud.Server, o *openstack.Object) error {
	var body consoleBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	if err := c.allow(s, cloud.OpConsole); err != nil {
		return err
	}
	switch {
	case s.Host == "":
		return conflict("Instance %s is not ready", s.ID)
	case body.Console.Length == zeroLines:
		return c.ok(object{"output": ""})
	case c.console == nil:
		return unsupported()
	}
	data, err := c.console.ReadConsole(c.r.Context(), s.Host, s.ID, max(0, int(body.Console.Length)))
	switch {
	case cloud.Is(err, cloud.KindUnavailable):
		return conflict("Instance %s is not ready", s.ID)
	case cloud.Is(err, cloud.KindNotFound):
		return notFound("Guest does not have a console available.")
	case err != nil:
		return err
	}
	return c.ok(object{"output": printable(data)})
}

// printable removes control characters but tab and line feed, as Nova does, and what is not UTF-8.
func printable(data []byte) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' && r != '\n' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(data), "\ufffd"))
}
