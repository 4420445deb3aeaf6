package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tokenim/tokenim/federation"
)

// configCommand prints the documented configuration file with the values in
// effect. What it prints is a valid file.
func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the documented configuration file with the values in effect",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			if id, err := federation.LoadIdentity(cfg.Data); err == nil && cfg.Name == "" {
				cfg.Name = string(id.Name)
			}
			cfg.Federation.PeersDir = cfg.peersDir()
			return printConfig(cmd.OutOrStdout(), cfg, nil)
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

// secretKeys are never printed.
var secretKeys = map[string]bool{"registration.shared_secret": true}

// printConfig writes a configuration as a documented YAML file. If set is not
// nil, only its keys are given and the others stand in comments.
func printConfig(w io.Writer, cfg Config, set map[string]bool) error {
	docs, err := configDocs()
	if err != nil {
		return err
	}
	p := &configPrinter{docs: docs, set: set}
	p.doc("", "Configuration of a TokenIM node. A flag overrides the environment (TOKENIM_ and\n"+
		"the key in capitals, dots as underscores, lists separated by commas), which\noverrides this file.")
	p.section("", "", reflect.ValueOf(cfg))
	_, err = io.WriteString(w, p.out.String())
	return err
}

// configPrinter holds the file while it is written.
type configPrinter struct {
	docs map[string]string // "HTTPConfig.Listen" -> comment
	set  map[string]bool   // keys to give; nil: all
	out  strings.Builder
}

func (p *configPrinter) doc(indent, text string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(&p.out, "%s# %s\n", indent, strings.TrimRight(line, "\n"))
	}
}

// section writes the fields of a struct.
func (p *configPrinter) section(prefix, indent string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		key := prefix + name
		if i > 0 || prefix == "" {
			p.out.WriteString("\n")
		}
		p.doc(indent, p.docs[v.Type().Name()+"."+f.Name])
		if f.Type.Kind() == reflect.Struct {
			fmt.Fprintf(&p.out, "%s%s%s:\n", p.off(key), indent, name)
			p.section(key+".", indent+"  ", v.Field(i))
			continue
		}
		fmt.Fprintf(&p.out, "%s%s%s: %s\n", p.off(key), indent, name, p.value(key, v.Field(i)))
	}
}

// off returns what makes a comment of a key that is not to be given: no key
// below it is set either.
func (p *configPrinter) off(key string) string {
	if p.set == nil {
		return ""
	}
	for k := range p.set {
		if k == key || strings.HasPrefix(k, key+".") {
			return ""
		}
	}
	return "#"
}

// value returns a value in one line of YAML.
func (p *configPrinter) value(key string, v reflect.Value) string {
	if secretKeys[key] {
		if v.String() == "" {
			return `""`
		}
		return `"" # set, but not shown`
	}
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprintf("%q", v.Index(i).String())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if v.Kind() == reflect.String && v.String() == "" {
		return `""`
	}
	raw, err := yaml.Marshal(v.Interface())
	if err != nil { // strings and booleans always encode
		panic(err)
	}
	if s := strings.TrimSpace(string(raw)); !strings.Contains(s, "\n") {
		return s
	}
	return fmt.Sprintf("%q", v.String())
}

// configDocs reads the comments of the fields of the configuration's structs
// from their source: "Config.Name" -> text.
func configDocs() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), configFile, configSource, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				docs[spec.Name.Name+"."+f.Names[0].Name] = f.Doc.Text()
			}
		}
		return false
	})
	return docs, nil
}
