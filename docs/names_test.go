package docs

import (
	"go/ast"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// codeName is `package.Name` or `package.Type.Method` in backquotes, the
// package being its last path element.
var codeName = regexp.MustCompile("`([a-z]+)\\.([A-Za-z]\\w*)(?:\\.([A-Za-z]\\w*))?`")

// declared returns every top-level name as "pkg.Name" and every method and
// field as "pkg.Type.Name", pkg being the package's own name.
func declared(t *testing.T) map[string]bool {
	names := map[string]bool{}
	for _, s := range sources(t) {
		pkg := s.file.Name.Name
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if typ := receiver(d); typ != "" {
					names[pkg+"."+typ+"."+d.Name.Name] = true
				} else {
					names[pkg+"."+d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch x := spec.(type) {
					case *ast.TypeSpec:
						names[pkg+"."+x.Name.Name] = true
						addMembers(names, pkg+"."+x.Name.Name, x.Type)
					case *ast.ValueSpec:
						for _, n := range x.Names {
							names[pkg+"."+n.Name] = true
						}
					}
				}
			}
		}
	}
	return names
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	typ := d.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func addMembers(names map[string]bool, prefix string, typ ast.Expr) {
	var fields *ast.FieldList
	switch x := typ.(type) {
	case *ast.StructType:
		fields = x.Fields
	case *ast.InterfaceType:
		fields = x.Methods
	default:
		return
	}
	for _, f := range fields.List {
		for _, n := range f.Names {
			names[prefix+"."+n.Name] = true
		}
	}
}

// TestNamesExist checks that the names in life-of-a-message.md and
// architecture.md exist in the code.
func TestNamesExist(t *testing.T) {
	names := declared(t)
	for _, doc := range []string{"life-of-a-message.md", "architecture.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range codeName.FindAllStringSubmatch(string(text), -1) {
			if m[2] == "go" || m[2] == "md" || m[2] == "tsv" { // file names
				continue
			}
			found++
			name := m[1] + "." + m[2]
			if m[3] != "" {
				name += "." + m[3]
			}
			if !names[name] {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
		if doc == "life-of-a-message.md" && found < 15 {
			t.Errorf("%s names only %d functions", doc, found)
		}
	}
}

var mdLink = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

// TestLinksResolve checks that relative links of every page lead to files.
func TestLinksResolve(t *testing.T) {
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != ".." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".md") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range mdLink.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", p, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
