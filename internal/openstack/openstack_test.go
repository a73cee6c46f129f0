package openstack

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestEveryKindHasAStatusInEveryDialect(t *testing.T) {
	for _, d := range []*Dialect{Nova, Keystone, Glance, Neutron} {
		for _, k := range cloud.Kinds() {
			if code := d.Status(k); code < 400 || code > 599 {
				t.Errorf("%s: kind %s has status %d", d.Service, k, code)
			}
			f := d.fault(cloud.Errorf(k, "some text"))
			if f.Code != d.Status(k) {
				t.Errorf("%s: kind %s answers %d, its status is %d", d.Service, k, f.Code, d.Status(k))
			}
			hidden := k == cloud.KindInternal || k == cloud.KindUnavailable || k == cloud.KindUnauthenticated
			if shown := f.Message == "some text"; shown == hidden {
				t.Errorf("%s: kind %s shows %q", d.Service, k, f.Message)
			}
		}
	}
	if len(kindStatus) != len(cloud.Kinds()) {
		t.Errorf("%d statuses for %d kinds", len(kindStatus), len(cloud.Kinds()))
	}
}

type choice struct {
	Auto bool
	List []string
}

func (c *choice) BindJSON(v any) error {
	switch v := v.(type) {
	case string:
		if v != "auto" {
			return Refuse(v, "is not one of ['auto']")
		}
		c.Auto = true
		return nil
	case []any:
		for range v {
			c.List = append(c.List, "item")
		}
		return nil
	}
	return Mismatch(v, "string", "array")
}

type sample struct {
	Server struct {
		Name     string            `json:"name" api:"required;len=1..5"`
		Note     *string           `json:"note" api:"null;since=2.19"`
		Old      string            `json:"old" api:"until=2.24"`
		Count    int               `json:"count" api:"range=1..10;loose"`
		On       bool              `json:"on" api:"loose"`
		Mode     string            `json:"mode" api:"enum=a|b"`
		Kind     string            `json:"kind" api:"match=^[a-z]+$"`
		Tags     []string          `json:"tags" api:"unique;len=..2"`
		Meta     map[string]string `json:"meta"`
		Nets     choice            `json:"nets"`
		Ratio    float64           `json:"ratio"`
		Anything any               `json:"anything"`
	} `json:"server" api:"required"`
	Hints map[string]any `api:"extra"`
}

func bindSample(t *testing.T, body string, v Microversion) (sample, error) {
	t.Helper()
	o, err := ParseObject([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	var s sample
	return s, Bind(o, &s, v)
}

func TestBindRefusesInNovasWords(t *testing.T) {
	field := func(name, value, reason string) string {
		return "Invalid input for field/attribute " + name + ". Value: " + value + ". " + reason
	}
	for body, want := range map[string]string{
		`{}`:                                     `'server' is a required property`,
		`{"server":[]}`:                          field("server", "[]", "[] is not of type 'object'"),
		`{"server":{}}`:                          field("server", "{}", "'name' is a required property"),
		`{"server":{"name":""}}`:                 field("name", "", "'' is too short"),
		`{"server":{"name":"ééééé!"}}`:           field("name", "ééééé!", "'ééééé!' is too long"),
		`{"server":{"name":null}}`:               field("name", "None", "None is not of type 'string'"),
		`{"server":{"name":"a","y":{},"x":1}}`:   field("server", "{'name': 'a', 'y': {}, 'x': 1}", "Additional properties are not allowed ('x', 'y' were unexpected)"),
		`{"server":{"name":"a","note":5}}`:       field("note", "5", "5 is not of type 'string', 'null'"),
		`{"server":{"name":"a","count":11}}`:     field("count", "11", "11 is greater than the maximum of 10"),
		`{"server":{"name":"a","count":0}}`:      field("count", "0", "0 is less than the minimum of 1"),
		`{"server":{"name":"a","count":1.5}}`:    field("count", "1.5", "1.5 is not of type 'integer'"),
		`{"server":{"name":"a","count":"x"}}`:    field("count", "x", "'x' is not of type 'integer'"),
		`{"server":{"name":"a","on":"perhaps"}}`: field("on", "perhaps", "'perhaps' is not of type 'boolean'"),
		`{"server":{"name":"a","mode":"c"}}`:     field("mode", "c", "'c' is not one of ['a', 'b']"),
		`{"server":{"name":"a","kind":"A"}}`:     field("kind", "A", "'A' does not match '^[a-z]+$'"),
		`{"server":{"name":"a","tags":["x","x"]}}`: field("tags", "['x', 'x']",
			"['x', 'x'] has non-unique elements"),
		`{"server":{"name":"a","tags":["x",true]}}`: field("1", "True", "True is not of type 'string'"),
		`{"server":{"name":"a","meta":{"k":5}}}`:    field("k", "5", "5 is not of type 'string'"),
		`{"server":{"name":"a","nets":"none"}}`:     field("nets", "none", "'none' is not one of ['auto']"),
		`{"server":{"name":"a","nets":{}}}`:         field("nets", "{}", "{} is not of type 'string', 'array'"),
		`{"server":{"name":"a","ratio":"1"}}`:       field("ratio", "1", "'1' is not of type 'number'"),
		`{"server":{"name":"it's \"so\""}}`:         field("name", `it's "so"`, `'it\'s "so"' is too long`),
	} {
		_, err := bindSample(t, body, Microversion{2, 19})
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", body, err, want)
		}
		if err != nil && !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: kind is %v", body, cloud.KindOf(err))
		}
	}
}

func TestBindTakesWhatIsRight(t *testing.T) {
	s, err := bindSample(t, `{"server":{"name":"a","note":null,"count":"7","on":"True","mode":"b","tags":["x"],"meta":{"k":"v"},
		"nets":["p"],"ratio":1.5,"anything":{"a":[1]}},"os:hints":{"group":"g"}}`, Microversion{2, 20})
	if err != nil {
		t.Fatal(err)
	}
	v := s.Server
	if v.Name != "a" || v.Note != nil || v.Count != 7 || !v.On || v.Mode != "b" || v.Tags[0] != "x" || v.Meta["k"] != "v" ||
		len(v.Nets.List) != 1 || v.Ratio != 1.5 || v.Anything.(map[string]any)["a"].([]any)[0] != json.Number("1") {
		t.Errorf("got %+v", v)
	}
	if s.Hints["os:hints"].(map[string]any)["group"] != "g" {
		t.Errorf("extra properties: %v", s.Hints)
	}
}

func TestPropertyIsUnknownOutsideItsMicroversions(t *testing.T) {
	for body, versions := range map[string]map[Microversion]bool{
		`{"server":{"name":"a","note":"n"}}`: {{2, 18}: false, {2, 19}: true, {2, 95}: true},
		`{"server":{"name":"a","old":"n"}}`:  {{2, 1}: true, {2, 24}: true, {2, 25}: false},
	} {
		for v, known := range versions {
			_, err := bindSample(t, body, v)
			if known != (err == nil) || err != nil && !strings.Contains(err.Error(), "Additional properties are not allowed") {
				t.Errorf("%s at %s: %v", body, v, err)
			}
		}
	}
}

func TestAppendStringWritesTheStringItWasGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		var back string
		if err := json.Unmarshal(AppendString(nil, s), &back); err != nil || back != s {
			t.Fatalf("%q came back as %q: %v", s, back, err)
		}
	})
	if got := string(AppendString(nil, "a\xffb")); got != "\"a\ufffdb\"" {
		t.Errorf("invalid UTF-8: %q", got)
	}
}

func TestRolesImplyLesserOnes(t *testing.T) {
	admin := &Caller{Roles: ExpandRoles([]string{"admin"})}
	reader := &Caller{Roles: ExpandRoles([]string{"reader"}), Project: "p"}
	if !admin.Has("member") || !admin.Has("reader") || !admin.IsAdmin() || !admin.Sees("any") || admin.Owns("") {
		t.Errorf("admin: %v", admin.Roles)
	}
	if reader.Has("member") || reader.IsAdmin() || reader.Sees("q") || !reader.Sees("p") {
		t.Errorf("reader: %v", reader.Roles)
	}
	var policy *PolicyError
	if err := reader.Require(RoleMember, "rule"); !cloud.Is(err, cloud.KindForbidden) || !errors.As(err, &policy) {
		t.Errorf("refusal is %v", err)
	}
}

func TestSlicePagesCoverEverythingOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,6}`), 0, 40, rapid.ID[string]).Draw(t, "items")
		limit := rapid.IntRange(1, 10).Draw(t, "limit")
		var seen []string
		for p := (Page{Limit: limit}); ; {
			page, more, err := Slice(items, p, rapid.ID[string])
			if err != nil || len(page) > limit {
				t.Fatalf("page %v of limit %d: %v", page, limit, err)
			}
			seen = append(seen, page...)
			if !more {
				break
			}
			p.Marker = page[len(page)-1]
		}
		if strings.Join(seen, " ") != strings.Join(items, " ") {
			t.Fatalf("got %v, want %v", seen, items)
		}
	})
	if _, _, err := Slice([]string{"a"}, Page{Limit: 1, Marker: "gone"}, rapid.ID[string]); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("unknown marker: %v", err)
	}
}

func FuzzParseNeverPanicsAndRefusesDuplicates(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `[1,{"b":null}]`, `{"server":{"name":"x"}}`, `"\ud800"`, `1e999`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseObject(data)
		if err != nil {
			return
		}
		if len(o.Names) != len(o.values) {
			t.Fatalf("%d names, %d values", len(o.Names), len(o.values))
		}
		var s sample
		_ = Bind(o, &s, Microversion{2, 95})
		if !json.Valid(data) {
			t.Fatalf("took invalid JSON %q", data)
		}
	})
}
