// Package spectest checks answers of the Client-Server API against the Matrix
// specification's own OpenAPI definitions. It is for tests alone and imports
// nothing of this project.
//
// The definitions are found through the environment variable
// TOKENIM_MATRIX_SPEC, by default in ../shared/matrix-spec beside the
// repository; a test that finds none there is skipped.
package spectest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Operation is one operation of the definitions.
type Operation struct {
	ID         string // operationId
	Method     string // upper case
	Path       string // with the base path: /_matrix/client/v3/rooms/{roomId}/join
	Auth       bool   // an access token is required
	Deprecated bool
	File       string // file name of the definition

	url       string // of the definition file
	pointer   string // JSON pointer of the operation in it
	responses map[string]any
}

// Spec holds the client-server definitions. It is safe for concurrent use.
type Spec struct {
	ops      []Operation
	standard *jsonschema.Schema // the standard error response

	mu       sync.Mutex // guards what follows
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema // by location
}

// dir returns the directory of the definitions.
func dir() (string, error) {
	if d := os.Getenv("TOKENIM_MATRIX_SPEC"); d != "" {
		return filepath.Abs(d)
	}
	root, err := os.Getwd() // a test runs in the directory of its package
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return filepath.Join(filepath.Dir(root), "shared", "matrix-spec"), nil
		}
		up := filepath.Dir(root)
		if up == root {
			return "", errors.New("no go.mod above the test")
		}
		root = up
	}
}

var load = sync.OnceValues(func() (*Spec, error) {
	d, err := dir()
	if err != nil {
		return nil, err
	}
	return read(filepath.Join(d, "data", "api", "client-server"))
})

// Open returns the definitions. Without them the test is skipped.
func Open(t testing.TB) *Spec {
	t.Helper()
	s, err := load()
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the definitions of the Matrix specification are not here (TOKENIM_MATRIX_SPEC): ", err)
	}
	if err != nil {
		t.Fatal("definitions of the Matrix specification: ", err)
	}
	return s
}

// Available reports whether the definitions are there, for tests that do more
// than validate.
func Available() bool {
	_, err := load()
	return !errors.Is(err, os.ErrNotExist)
}

// read loads the definitions of a directory.
func read(dir string) (*Spec, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s: no definitions: %w", dir, os.ErrNotExist)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(loader{})
	s := &Spec{compiler: c, compiled: map[string]*jsonschema.Schema{}}
	for _, f := range files {
		ops, err := operations(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		s.ops = append(s.ops, ops...)
	}
	s.standard, err = s.schema(fileURL(filepath.Join(dir, "definitions", "errors", "error.yaml")))
	return s, err
}

// Operations returns every operation, in the order of files and paths.
func (s *Spec) Operations() []Operation { return slices.Clone(s.ops) }

// operations reads the operations of one file.
func operations(file string) ([]Operation, error) {
	doc, err := readYAML(file)
	if err != nil {
		return nil, err
	}
	base, _ := dig(doc, "servers", 0, "variables", "basePath", "default").(string)
	paths, _ := dig(doc, "paths").(map[string]any)
	var ops []Operation
	for path, item := range paths {
		methods, _ := item.(map[string]any)
		for m, op := range methods {
			if !slices.Contains([]string{"get", "post", "put", "delete"}, m) {
				continue
			}
			o := Operation{
				Method: strings.ToUpper(m), Path: base + strings.TrimSpace(path), File: filepath.Base(file),
				url: fileURL(file), pointer: "/paths/" + escape(path) + "/" + m,
			}
			o.ID, _ = dig(op, "operationId").(string)
			o.Deprecated, _ = dig(op, "deprecated").(bool)
			o.responses, _ = dig(op, "responses").(map[string]any)
			o.Auth = needsToken(op)
			ops = append(ops, o)
		}
	}
	slices.SortFunc(ops, func(a, b Operation) int {
		return strings.Compare(a.Path+" "+a.Method+" "+a.ID, b.Path+" "+b.Method+" "+b.ID)
	})
	return ops, nil
}

// needsToken reports whether every way to call an operation has a token.
func needsToken(op any) bool {
	list, _ := dig(op, "security").([]any)
	for _, way := range list {
		if m, _ := way.(map[string]any); len(m) == 0 {
			return false
		}
	}
	return len(list) > 0
}

// Find returns the operations of a method that a path belongs to: more than
// one where the specification describes two forms of a request apart. path may
// have a query and must be escaped as it is sent.
func (s *Spec) Find(method, path string) []Operation {
	path, _, _ = strings.Cut(path, "?")
	var found []Operation
	best := -1
	for _, o := range s.ops {
		if o.Method != method {
			continue
		}
		switch n := match(o.Path, path); {
		case n < 0 || n < best:
		case n > best:
			best, found = n, []Operation{o}
		default:
			found = append(found, o)
		}
	}
	return found
}

// match returns how many segments of a path are literally those of the
// template, or -1 if it is another path. The trailing empty state key may be
// left out (room_state.yaml), and so may the slash that ends a template.
func match(template, path string) int {
	const stateKey = "/{stateKey}"
	if t, ok := strings.CutSuffix(template, stateKey); ok {
		if n := match(t, strings.TrimSuffix(path, "/")); n >= 0 {
			return n
		}
	}
	ts, ps := strings.Split(template, "/"), strings.Split(path, "/")
	if len(ts) == len(ps)+1 && ts[len(ts)-1] == "" {
		ts = ts[:len(ps)]
	}
	if len(ts) != len(ps) {
		return -1
	}
	n := 0
	for i, t := range ts {
		switch {
		case strings.HasPrefix(t, "{"):
			if ps[i] == "" {
				return -1
			}
		case t == ps[i]:
			n++
		default:
			return -1
		}
	}
	return n
}

// Check validates the status and the JSON body of an answer. An error answer
// is good if it has the form that the operation defines for its status, or
// that of the standard error response. A path that no operation has must be
// answered 404 or 405 with M_UNRECOGNIZED.
func (s *Spec) Check(method, path string, status int, body []byte) error {
	where := fmt.Sprintf("%s %s: %d", method, path, status)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: answer is not JSON: %w", where, err)
	}
	ops := s.Find(method, path)
	if len(ops) == 0 {
		code, _ := dig(value, "errcode").(string)
		if (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) && code == "M_UNRECOGNIZED" {
			return s.valid(where, s.standard, value, body)
		}
		return fmt.Errorf("%s: no such operation in the specification", where)
	}
	var errs []error
	for _, o := range ops {
		if err = s.check(o, where, status, value, body); err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// check validates an answer against one operation.
func (s *Spec) check(o Operation, where string, status int, value any, body []byte) error {
	code := strconv.Itoa(status)
	defined, listed := o.responses[code]
	if status >= 400 {
		// Every endpoint can return the common errors (Standard error response).
		std := s.valid(where, s.standard, value, body)
		if std == nil || dig(defined, "content", "application/json", "schema") == nil {
			return std
		}
	} else if !listed {
		return fmt.Errorf("%s: the specification has no such status for %s", where, o.ID)
	}
	if dig(defined, "content", "application/json", "schema") == nil {
		return nil
	}
	schema, err := s.schema(o.url + "#" + o.pointer + "/responses/" + code + "/content/application~1json/schema")
	if err != nil {
		return err
	}
	return s.valid(where, schema, value, body)
}

// valid validates a value and shows the start of a body that is not valid.
func (s *Spec) valid(where string, schema *jsonschema.Schema, value any, body []byte) error {
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w\nbody: %.2000s", where, err, body)
	}
	return nil
}

// schema compiles the schema at a location, once.
func (s *Spec) schema(location string) (*jsonschema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.compiled[location]; c != nil {
		return c, nil
	}
	c, err := s.compiler.Compile(location)
	if err != nil {
		return nil, err
	}
	s.compiled[location] = c
	return c, nil
}

// loader reads the YAML files that references name.
type loader struct{}

// Load implements jsonschema.URLLoader.
func (loader) Load(location string) (any, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, err
	}
	return readYAML(filepath.FromSlash(u.Path))
}

// readYAML reads a YAML file as JSON values.
func readYAML(file string) (any, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(plain(doc))
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
}

// plain makes every key of a YAML value a string. oneOf becomes anyOf: the
// definitions give forms of an answer by it that do not exclude each other (an
// event is also an object, getRoomStateWithKey).
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			if _, list := e.([]any); k == "oneOf" && list {
				k = "anyOf"
			}
			m[k] = plain(e)
		}
		return m
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(k)] = plain(e)
		}
		return m
	case []any:
		for i, e := range v {
			v[i] = plain(e)
		}
		return v
	}
	return v
}

// dig walks maps by string and lists by int; nil where there is nothing.
func dig(v any, steps ...any) any {
	for _, step := range steps {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// fileURL names a file as a schema location.
func fileURL(file string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(file)}).String()
}

// escape writes one token of a JSON pointer in the fragment of a URL.
func escape(token string) string {
	token = strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
	return url.PathEscape(token)
}
