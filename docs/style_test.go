package docs

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// longFunctions may exceed 80 lines: flat tables and switches, each by name.
var longFunctions = map[string]string{}

const (
	maxFile     = 500
	maxFunction = 80
)

// TestLengths bounds files and functions; tests and generated files are free.
func TestLengths(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		if s.lines > maxFile {
			t.Errorf("%s has %d lines, over %d", s.path, s.lines, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if name := s.pkg + "." + f.Name.Name; lines > maxFunction && longFunctions[name] == "" {
				t.Errorf("%s: %s has %d lines, over %d", s.path, f.Name.Name, lines, maxFunction)
			}
		}
	}
}

// TestPackageDocs wants exactly one package comment for every package.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "docs" {
			continue
		}
		if s.file.Doc != nil && len(strings.Fields(s.file.Doc.Text())) > 3 {
			docs[s.pkg] = append(docs[s.pkg], s.path)
		} else if docs[s.pkg] == nil {
			docs[s.pkg] = []string{}
		}
	}
	for pkg, files := range docs {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments %v, want one", pkg, len(files), files)
		}
	}
}

// TestExportedDocs wants a comment on every exported name. Fields and the
// members of a group may be explained by the comment of the whole.
func TestExportedDocs(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && receiverExported(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				checkGroup(t, s, d)
			}
		}
	}
}

// receiverExported reports whether a function is no method of an unexported type.
func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

func checkGroup(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	if d.Tok == token.IMPORT {
		return
	}
	for _, spec := range d.Specs {
		var names []*ast.Ident
		var doc, comment *ast.CommentGroup
		switch x := spec.(type) {
		case *ast.TypeSpec:
			names, doc, comment = []*ast.Ident{x.Name}, x.Doc, x.Comment
		case *ast.ValueSpec:
			names, doc, comment = x.Names, x.Doc, x.Comment
		}
		for _, n := range names {
			if n.IsExported() && doc == nil && comment == nil && d.Doc == nil {
				t.Errorf("%s: %s has no comment", s.fset.Position(n.Pos()), n.Name)
			}
		}
	}
}
