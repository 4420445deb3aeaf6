package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var quoted = regexp.MustCompile("`([^`]+)`")

// importTables reads the two tables of architecture.md: what each package may
// import of ours, and what its test files may import besides.
func importTables(t *testing.T) (code, tests map[string]map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	code, tests = map[string]map[string]bool{}, map[string]map[string]bool{}
	var table map[string]map[string]bool
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "| package | responsibility |"):
			table = code
		case strings.HasPrefix(line, "| test files of |"):
			table = tests
		case !strings.HasPrefix(line, "|"):
			table = nil
		case table != nil && strings.HasPrefix(line, "| `"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			name := quoted.FindStringSubmatch(cells[0])[1]
			if table[name] != nil {
				t.Errorf("architecture.md lists %s twice", name)
			}
			table[name] = map[string]bool{}
			for _, m := range quoted.FindAllStringSubmatch(cells[len(cells)-1], -1) {
				table[name][m[1]] = true
			}
		}
	}
	if len(code) == 0 || len(tests) == 0 {
		t.Fatal("architecture.md: the tables of allowed imports are gone")
	}
	return code, tests
}

// TestLayers compares the imports of every file with the tables.
func TestLayers(t *testing.T) {
	code, tests := importTables(t)
	used := map[string]map[string]bool{}
	for _, s := range sources(t) {
		if s.pkg == "docs" {
			continue
		}
		if code[s.pkg] == nil {
			t.Errorf("%s: package %s is not in the table of docs/architecture.md", s.path, s.pkg)
			code[s.pkg] = map[string]bool{}
		}
		if used[s.pkg] == nil {
			used[s.pkg] = map[string]bool{}
		}
		for _, spec := range s.file.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			if s.pkg == "node/event" && !s.test && strings.Contains(strings.Split(imp, "/")[0], ".") && !strings.HasPrefix(imp, "golang.org/x/") {
				t.Errorf("%s imports %s: node/event uses the standard library and golang.org/x alone", s.path, imp)
			}
			ours, is := strings.CutPrefix(imp, module)
			if !is || ours == s.pkg {
				continue
			}
			if !s.test {
				used[s.pkg][ours] = true
			}
			if !code[s.pkg][ours] && !(s.test && tests[s.pkg][ours]) {
				t.Errorf("%s imports %s, which docs/architecture.md does not allow for %s", s.path, ours, s.pkg)
			}
		}
	}
	for pkg := range code {
		if used[pkg] == nil {
			t.Errorf("docs/architecture.md lists %s, which does not exist", pkg)
		}
	}
}
