// The architecture as a test: the import law of docs/architecture.md as data, each ban with its reason, and the laws that a
// compiler does not keep. A failure names the file and says what to do instead.
package godwit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/godwit-cloud/godwit/"

// A ban forbids the packages under from to import the packages under to.
type ban struct {
	from, to string
	except   []string // packages under to that are allowed after all
	reason   string
}

// anyOfOurs stands for every package of this module.
const anyOfOurs = "*"

var bans = []ban{
	{"internal/cloud", anyOfOurs, nil, "the vocabulary is what everybody else is written in; it knows nobody"},
	{"uring", anyOfOurs, nil, "a public package depends on nothing of ours"},
	{"nbd", anyOfOurs, []string{"uring"}, "a public package depends on nothing of ours"},
	{"internal/placement", anyOfOurs, []string{"internal/cloud"}, "a decider is pure: it sees a snapshot and nothing else"},
	{"internal/consolidate", anyOfOurs, []string{"internal/cloud", "internal/placement"}, "a decider is pure"},
	{"internal/optimize", anyOfOurs, []string{"internal/cloud", "internal/placement", "internal/consolidate", "internal/telemetry"}, "a decider is pure"},
	{"internal/telemetry", anyOfOurs, []string{"internal/cloud"}, "a memory of samples; who decides by it is not its business"},
	{"internal/liveness", anyOfOurs, []string{"internal/cloud"}, "a decider is pure"},
	{"internal/recovery", anyOfOurs, []string{"internal/cloud"}, "a decider is pure"},
	{"internal/spare", anyOfOurs, []string{"internal/cloud", "internal/placement", "internal/recovery"}, "a decider is pure"},
	{"internal/healing", anyOfOurs, []string{"internal/cloud"}, "a decider is pure"},
	{"internal/sharedlease", anyOfOurs, []string{"internal/cloud"}, "sharedlease is a leaf: files and a clock"},
	{"internal/reconcile", anyOfOurs, []string{"internal/cloud", "internal/placement"}, "a decider is pure"},
	{"internal/netspec", anyOfOurs, []string{"internal/cloud"}, "pure functions from records to what a host must know"},
	{"internal/workflow", anyOfOurs, []string{"internal/cloud", "internal/workflow"}, "durable runs know no virtual machines and no store"},
	{"internal/store", anyOfOurs, []string{"internal/cloud", "internal/workflow", "internal/store"}, "the truth looks at nobody"},
	{"internal/openstack", "internal/control", nil, "the edge writes intents; it never drives work"},
	{"internal/openstack", "internal/flows", nil, "the edge writes intents; it never drives work"},
	{"internal/openstack", "internal/hostapi", nil, "no request waits on a host"},
	{"internal/openstack", "internal/kvm", nil, "no request waits on a host"},
	{"internal/openstack", "internal/hostagent", nil, "no request waits on a host"},
	{"internal/operator", "internal/hostapi", nil, "the edge never reaches hosts"},
	{"internal/operator", "internal/control", nil, "the edge writes intents; it never drives work"},
	{"internal/operator", "internal/flows", nil, "the edge writes intents; it never drives work"},
	{"internal/kvm", anyOfOurs, []string{"internal/cloud", "internal/kvm"}, "kvm is a leaf"},
	{"internal/disk", anyOfOurs, []string{"internal/cloud", "internal/disk", "internal/metadata", "uring"}, "disk is a leaf"},
	{"internal/vnet", anyOfOurs, []string{"internal/cloud", "internal/vnet", "internal/metadata"}, "vnet is a leaf"},
	{"internal/volume", anyOfOurs, []string{"internal/cloud", "internal/volume", "uring"}, "volume is a leaf: files, and who may write them"},
	{"internal/attachments", anyOfOurs, []string{"internal/cloud", "internal/store"}, "rules over a transaction, shared by edges and flows; they know neither"},
	{"internal/volumebook", anyOfOurs, []string{"internal/cloud", "internal/store", "internal/placement"}, "rules over a transaction, shared by edges and flows; they know neither"},
	{"internal/blockserve", anyOfOurs, []string{"internal/cloud", "internal/volume", "uring", "nbd"}, "the data path knows volumes and the NBD protocol, nothing of the control plane"},
	{"internal/peerdisk", anyOfOurs, []string{"internal/cloud", "uring", "nbd"}, "files from host to host; it knows nothing of servers"},
	{"internal/volumehost", "internal/store", nil, "a volume service never reads the truth; it reports to it"},
	{"internal/volumehost", "internal/control", nil, "nobody calls upward"},
	{"internal/gluster", anyOfOurs, []string{"internal/cloud"}, "gluster is a leaf"},
	{"internal/fence", anyOfOurs, []string{"internal/cloud", "internal/fence"}, "fence is a leaf"},
	{"internal/suspend", anyOfOurs, []string{"internal/cloud"}, "suspend is a leaf: one file of the kernel's"},
	{"internal/hostagent", "internal/store", nil, "a host never reads the truth; it reports to it"},
	{"internal/hostagent", "internal/control", nil, "nobody calls upward"},
	{"internal/flows", "internal/openstack", nil, "what is done does not depend on the dialect it was asked in"},
	{"internal/flows", "internal/control", nil, "nobody calls upward"},
	{"internal/control", "internal/openstack", nil, "control works for every dialect alike"},
}

// soleImporters are foreign packages that only one of our packages may touch.
var soleImporters = []struct{ foreign, only, reason string }{
	{"github.com/digitalocean/go-libvirt", "internal/kvm", "one place knows libvirt's wire"},
	{"go.etcd.io/", "internal/store", "one place knows etcd"},
	{"unsafe", "uring", "memory tricks live where the ring lives"},
}

// pure are the packages in which time, randomness and I/O arrive as arguments or not at all.
var pure = []string{"internal/cloud", "internal/placement", "internal/consolidate", "internal/optimize", "internal/telemetry", "internal/liveness", "internal/recovery", "internal/spare", "internal/healing", "internal/reconcile", "internal/netspec"}

var impureImports = []string{"os", "net", "net/http", "os/exec", "syscall", "io/ioutil", "log", "log/slog", "math/rand/v2"}

type source struct {
	pkg  string // module-relative directory, slashes
	path string
	file *ast.File
	test bool
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{filepath.ToSlash(filepath.Dir(path)), path, f, strings.HasSuffix(path, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("found only %d Go files: run this test from the module's root", len(out))
	}
	return out
}

func under(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func imports(f *ast.File) []string {
	var out []string
	for _, spec := range f.Imports {
		out = append(out, strings.Trim(spec.Path.Value, `"`))
	}
	return out
}

func TestImportLaw(t *testing.T) {
	for _, src := range sources(t) {
		if src.test || strings.HasSuffix(src.pkg, "pb") {
			continue // tests may join what production code keeps apart; generated code is not ours
		}
		for _, path := range imports(src.file) {
			ours, isOurs := strings.CutPrefix(path, module)
			for _, b := range bans {
				if !isOurs || !under(src.pkg, b.from) || under(ours, b.from) {
					continue
				}
				banned := b.to == anyOfOurs || under(ours, b.to)
				if banned && !slices.ContainsFunc(b.except, func(e string) bool { return under(ours, e) }) {
					t.Errorf("%s imports %s: %s", src.path, ours, b.reason)
				}
			}
			for _, s := range soleImporters {
				match := path == s.foreign || strings.HasPrefix(path, s.foreign)
				if match && !under(src.pkg, s.only) {
					t.Errorf("%s imports %s, which only %s may: %s", src.path, path, s.only, s.reason)
				}
			}
		}
	}
}

func TestDecidersArePure(t *testing.T) {
	for _, src := range sources(t) {
		if src.test || !slices.Contains(pure, src.pkg) {
			continue
		}
		for _, path := range imports(src.file) {
			if slices.Contains(impureImports, path) {
				t.Errorf("%s imports %q: a pure package gets time, randomness and data as arguments", src.path, path)
			}
		}
		ast.Inspect(src.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine: a pure package does not", src.path)
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok && id.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker"}, n.Sel.Name) {
					t.Errorf("%s calls time.%s: take now as an argument", src.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestEveryPackageHasAnEssay(t *testing.T) {
	docs := map[string]string{}
	for _, src := range sources(t) {
		if src.test || strings.HasSuffix(src.pkg, "pb") {
			continue
		}
		docs[src.pkg] += src.file.Doc.Text()
	}
	for pkg, doc := range docs {
		if len(doc) < 80 {
			t.Errorf("package %s has no package comment worth reading (%d bytes): say what it is for, who owns what, which races are harmless", pkg, len(doc))
		}
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	for _, src := range sources(t) {
		if !src.test {
			continue
		}
		synctest := slices.Contains(imports(src.file), "testing/synctest")
		ast.Inspect(src.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && !synctest {
				if id, ok := sel.X.(*ast.Ident); ok && id.Name == "time" && sel.Sel.Name == "Sleep" {
					t.Errorf("%s sleeps: wait for the event, or use testing/synctest", src.path)
				}
			}
			return true
		})
	}
}

// meaningless are package names that say nothing of what is inside.
var meaningless = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "shared"}

func TestPackageNamesMeanSomething(t *testing.T) {
	for _, src := range sources(t) {
		if slices.Contains(meaningless, src.file.Name.Name) {
			t.Errorf("%s is in package %s: name the idea or inline it", src.path, src.file.Name.Name)
		}
	}
}

// markdownLink matches the target of an inline link or image.
var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)`)

func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	pages := []string{"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
	err := filepath.WalkDir("docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markdownLink.FindAllSubmatch(text, -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, ":") {
				continue // within the page, or on the network
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target)); err != nil {
				t.Errorf("%s links to %s, which is not there: write it or take the link out", page, target)
			}
		}
	}
	if links < 10 {
		t.Errorf("found only %d links in %d pages: the pattern no longer matches them", links, len(pages))
	}
}
