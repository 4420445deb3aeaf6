package client

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/api/client/spectest"
)

// ledgerRow is a line of docs/compliance.tsv.
type ledgerRow struct{ method, path, status, test, note string }

func readLedger(t *testing.T) []ledgerRow {
	t.Helper()
	raw, err := os.ReadFile("../../docs/compliance.tsv")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	if lines[0] != "method\tpath\tstatus\ttest\tnote" {
		t.Errorf("header is %q", lines[0])
	}
	var rows []ledgerRow
	for i, line := range lines[1:] {
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			t.Fatalf("line %d has %d columns", i+2, len(f))
		}
		rows = append(rows, ledgerRow{f[0], f[1], f[2], f[3], f[4]})
	}
	return rows
}

// The ledger says of every operation of the specification whether it is there,
// and the table of routes agrees.
func TestCompliance(t *testing.T) {
	rows := readLedger(t)
	routed := map[string]bool{}
	for _, r := range routes() {
		routed[r.method+" "+r.pattern] = true
	}
	inLedger := map[string]int{}
	there := map[string]bool{}
	for _, r := range rows {
		op := r.method + " " + r.path
		inLedger[op]++
		there[op] = there[op] || r.status != "No"
		switch r.status {
		case "Yes", "Partial":
			if !routed[op] {
				t.Errorf("%s: %s, but not routed", op, r.status)
			}
			if r.test == "" || r.status == "Partial" && r.note == "" {
				t.Errorf("%s: %s without a test or a note", op, r.status)
			}
		case "No":
			if r.test != "" {
				t.Errorf("%s: No, but tested", op)
			}
		default:
			t.Errorf("%s: status %q", op, r.status)
		}
	}
	for op := range routed {
		if !there[op] {
			t.Errorf("%s is routed, and the ledger does not say so", op)
		}
	}
	if !slices.IsSortedFunc(rows, func(a, b ledgerRow) int {
		return strings.Compare(a.path+" "+a.method, b.path+" "+b.method)
	}) {
		t.Error("the ledger is not in the order of paths and methods")
	}
	testsExist(t, rows)

	defined := map[string]int{}
	for _, o := range spectest.Open(t).Operations() {
		defined[o.Method+" "+o.Path]++
	}
	for op, n := range defined {
		if inLedger[op] != n {
			t.Errorf("%s: %d operations in the specification, %d rows", op, n, inLedger[op])
		}
	}
	for op := range inLedger {
		if defined[op] == 0 {
			t.Errorf("%s is not in the specification", op)
		}
	}
}

// testsExist checks that the tests named in the ledger are there.
func testsExist(t *testing.T, rows []ledgerRow) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[fn.Name.Name] = true
			}
		}
	}
	for _, r := range rows {
		if r.test != "" && !tests[r.test] {
			t.Errorf("%s %s: there is no test %s", r.method, r.path, r.test)
		}
	}
}
