// Package docs holds the documentation, and the tests that hold the code to it.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/tokenim/tokenim/"

// source is one Go file of the project.
type source struct {
	path      string // from the root, with slashes
	pkg       string // folder from the root
	test      bool
	generated bool
	lines     int
	file      *ast.File
	fset      *token.FileSet
}

// sources parses every Go file of the project.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(p), "../")
		all = append(all, source{
			path: rel, pkg: path.Dir(rel), test: strings.HasSuffix(name, "_test.go"),
			generated: ast.IsGenerated(f), lines: fset.File(f.FileStart).LineCount(), file: f, fset: fset,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d Go files found: is the test run in docs/?", len(all))
	}
	return all
}
