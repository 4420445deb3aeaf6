package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// load loads a configuration from flags; the environment is the process's.
func load(t testing.TB, args ...string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addConfigFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags)
}

func TestConfigOrder(t *testing.T) {
	file := writeTestFile(t, "c.yaml", `
name: from-file
http: {listen: "127.0.0.1:1"}
p2p:
  listen: ["127.0.0.1:11", "/ip4/127.0.0.1/tcp/12"]
log: {level: warn}
`)
	t.Setenv("TOKENIM_HTTP_LISTEN", "127.0.0.1:2")
	t.Setenv("TOKENIM_P2P_ANNOUNCE", "10.0.0.1:5, 10.0.0.2:6")
	t.Setenv("TOKENIM_LIMITS_ENABLED", "false")
	t.Setenv("TOKENIM_LOG_FORMAT", "json")
	t.Setenv(testEnv, "somewhere")

	want := defaultConfig()
	want.Name = "from-file"
	want.HTTP.Listen = "127.0.0.1:2"
	want.P2P.Listen = []string{"127.0.0.1:11", "/ip4/127.0.0.1/tcp/12"}
	want.P2P.Announce = []string{"10.0.0.1:5", "10.0.0.2:6"}
	want.Limits.Enabled = false
	want.Log = LogConfig{Level: "warn", Format: "json"}
	got, err := load(t, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	got, err = load(t, "--config", file, "--http", "127.0.0.1:3", "--name", "flag", "--p2p", "127.0.0.1:13,127.0.0.1:14", "--p2p", "127.0.0.1:15", "--data", "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	want.HTTP.Listen, want.Name, want.Data = "127.0.0.1:3", "flag", "elsewhere"
	want.P2P.Listen = []string{"127.0.0.1:13", "127.0.0.1:14", "127.0.0.1:15"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("with flags: got  %+v\nwant %+v", got, want)
	}
}

// TestConfigEveryKey sets every key through the file and through the
// environment: no key may be forgotten in one of them.
func TestConfigEveryKey(t *testing.T) {
	link := "tokenim://peer?n=branch&p=12D3KooWGBfKqTqgMcEFp1Te9mEh3mLPFEzEDQqH4nwKq5GNeJzR&a=/ip4/127.0.0.1/tcp/7002"
	values := map[string]any{
		"name": "hq", "data": "d", "http.listen": "127.0.0.1:81", "http.public_url": "https://chat.example.org",
		"p2p.listen": []string{"127.0.0.1:82"}, "p2p.announce": []string{"127.0.0.1:83"},
		"federation.mode": "closed", "federation.peers": []string{link}, "federation.peers_dir": "p",
		"registration.mode": "open", "registration.shared_secret": "s3cret",
		"limits.enabled": false, "log.level": "debug", "log.format": "json",
	}
	defaults := leaves(defaultConfig())
	if len(defaults) != len(values) {
		t.Fatalf("%d keys, test knows %d", len(defaults), len(values))
	}
	check := func(t *testing.T, cfg Config) {
		t.Helper()
		for _, l := range leaves(cfg) {
			if !reflect.DeepEqual(l.value, values[l.key]) {
				t.Errorf("%s is %v, want %v", l.key, l.value, values[l.key])
			}
		}
	}
	t.Run("file", func(t *testing.T) {
		tree := map[string]any{}
		for key, v := range values {
			if section, name, nested := strings.Cut(key, "."); nested {
				if tree[section] == nil {
					tree[section] = map[string]any{}
				}
				tree[section].(map[string]any)[name] = v
			} else {
				tree[key] = v
			}
		}
		raw, err := yaml.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := load(t, "--config", writeTestFile(t, "c.yaml", string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		check(t, cfg)
	})
	t.Run("environment", func(t *testing.T) {
		for key, v := range values {
			switch v := v.(type) {
			case string:
				t.Setenv(envName(key), v)
			case bool:
				t.Setenv(envName(key), "false")
			case []string:
				t.Setenv(envName(key), strings.Join(v, ","))
			}
		}
		cfg, err := load(t)
		if err != nil {
			t.Fatal(err)
		}
		check(t, cfg)
	})
}

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		file string
		env  [2]string
		args []string
		want string
	}{
		{name: "unknown key", file: "nam: x", want: `line 1: unknown key "nam"`},
		{name: "unknown nested key", file: "http:\n  port: 1", want: `line 2: unknown key "port"`},
		{name: "unknown empty section", file: "nothing: {}", want: `unknown key "nothing"`},
		{name: "key in the wrong case", file: "Name: x", want: `unknown key "Name"`},
		{name: "twice", file: "name: a\nname: b", want: "already defined"},
		{name: "no YAML", file: "a: [", want: "line 1"},
		{name: "a list", file: "- a", want: "line 1"},
		{name: "two documents", file: "name: a\n---\nname: b", want: "more than one"},
		{name: "wrong type", file: "limits: {enabled: maybe}", want: "line 1"},
		{name: "section is a value", file: "http: 8008", want: "line 1"},
		{name: "unknown variable", env: [2]string{"TOKENIM_NAEM", "x"}, want: "TOKENIM_NAEM"},
		{name: "wrong type of variable", env: [2]string{"TOKENIM_LIMITS_ENABLED", "maybe"}, want: "limits.enabled"},
		{name: "missing file", args: []string{"--config", "/nowhere/c.yaml"}, want: "/nowhere/c.yaml"},
		{name: "name", args: []string{"--name", "HQ"}, want: `name "HQ"`},
		{name: "name with a port", args: []string{"--name", "hq:80"}, want: `name "hq:80"`},
		{name: "no data", file: `data: ""`, args: []string{"--data", ""}, want: "data"},
		{name: "listen", args: []string{"--http", "8008"}, want: "http.listen"},
		{name: "port", args: []string{"--http", "127.0.0.1:http"}, want: "http.listen"},
		{name: "port too large", args: []string{"--http", "127.0.0.1:65536"}, want: "http.listen"},
		{name: "url", file: "http: {public_url: chat.example.org}", want: "http.public_url"},
		{name: "p2p", args: []string{"--p2p", "nonsense"}, want: "p2p.listen"},
		{name: "p2p multiaddress", args: []string{"--p2p", "/ip4/300.0.0.1/tcp/1"}, want: "p2p.listen"},
		{name: "announce", file: "p2p: {announce: [x]}", want: "p2p.announce"},
		{name: "mode", file: "federation: {mode: none}", want: "federation.mode"},
		{name: "mode of later versions", file: "federation: {mode: open}", want: "not offered"},
		{name: "peers", file: "federation: {peers: [x]}", want: "federation.peers"},
		{name: "registration", file: "registration: {mode: maybe}", want: "registration.mode"},
		{name: "level", file: "log: {level: loud}", want: "log.level"},
		{name: "format", file: "log: {format: xml}", want: "log.format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := tt.args
			if tt.file != "" {
				args = append([]string{"--config", writeTestFile(t, "c.yaml", tt.file)}, args...)
			}
			if tt.env[0] != "" {
				t.Setenv(tt.env[0], tt.env[1])
			}
			_, err := load(t, args...)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not contain %q", err, tt.want)
			}
		})
	}
}

func TestConfigFileOfDirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, configFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("name: hq\ndata: " + dir)
	if cfg, err := load(t, "--data", dir); err != nil || cfg.Name != "hq" {
		t.Errorf("got %q, %v", cfg.Name, err)
	}
	write("data: /somewhere/else")
	if _, err := load(t, "--data", dir); err == nil || !strings.Contains(err.Error(), "/somewhere/else") {
		t.Errorf("another directory in the directory's own file: %v", err)
	}
	write("")
	if _, err := load(t, "--data", dir); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

// TestConfigPrinted: what `config` prints is a file that means the same, names
// every key once and documents it, and hides the secret.
func TestConfigPrinted(t *testing.T) {
	cfg := defaultConfig()
	cfg.Name, cfg.Registration.SharedSecret = "hq", "s3cret"
	cfg.P2P.Listen = []string{"127.0.0.1:7001", "/ip4/127.0.0.1/tcp/7002"}
	var out bytes.Buffer
	if err := printConfig(&out, cfg, nil); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if strings.Contains(text, "s3cret") {
		t.Error("the shared secret is printed")
	}
	got, err := load(t, "--config", writeTestFile(t, "c.yaml", text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	cfg.Registration.SharedSecret = ""
	if !reflect.DeepEqual(got, cfg) {
		t.Errorf("got  %+v\nwant %+v\n%s", got, cfg, text)
	}
	docs, err := configDocs()
	if err != nil {
		t.Fatal(err)
	}
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			doc, _, _ := strings.Cut(docs[typ.Name()+"."+f.Name], "\n")
			if doc == "" || !strings.Contains(text, "# "+doc) {
				t.Errorf("%s.%s is not documented in the file", typ.Name(), f.Name)
			}
			if f.Type.Kind() == reflect.Struct {
				check(f.Type)
			}
		}
	}
	check(reflect.TypeFor[Config]())
}

// TestConfigPartlyPrinted: the file that init writes sets the given keys only.
func TestConfigPartlyPrinted(t *testing.T) {
	keys := leaves(defaultConfig())
	rapid.Check(t, func(rt *rapid.T) {
		cfg := defaultConfig()
		cfg.Name, cfg.HTTP.PublicURL, cfg.Log.Level = "hq", "https://x.example", "debug"
		set := map[string]bool{}
		for _, l := range keys {
			if rapid.Bool().Draw(rt, l.key) && !secretKeys[l.key] {
				set[l.key] = true
			}
		}
		var out bytes.Buffer
		if err := printConfig(&out, cfg, set); err != nil {
			rt.Fatal(err)
		}
		var tree map[string]any
		if err := yaml.Unmarshal(out.Bytes(), &tree); err != nil {
			rt.Fatalf("%v\n%s", err, out.String())
		}
		given := 0
		for _, l := range keys {
			section, name, nested := strings.Cut(l.key, ".")
			_, ok := tree[section]
			if nested && ok {
				_, ok = tree[section].(map[string]any)[name]
			}
			if ok != set[l.key] {
				rt.Fatalf("%s given: %v, want %v\n%s", l.key, ok, set[l.key], out.String())
			}
			if ok {
				given++
			}
		}
		if given != len(set) {
			rt.Fatalf("%d keys given, want %d", given, len(set))
		}
	})
}

func TestP2PAddrs(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
	}{
		{"127.0.0.1:7", []string{"/ip4/127.0.0.1/udp/7/quic-v1", "/ip4/127.0.0.1/tcp/7"}},
		{"[::1]:7", []string{"/ip6/::1/udp/7/quic-v1", "/ip6/::1/tcp/7"}},
		{":7", []string{"/ip4/0.0.0.0/udp/7/quic-v1", "/ip4/0.0.0.0/tcp/7", "/ip6/::/udp/7/quic-v1", "/ip6/::/tcp/7"}},
		{"node.example.org:7", []string{"/dns/node.example.org/udp/7/quic-v1", "/dns/node.example.org/tcp/7"}},
		{"/ip4/10.0.0.1/tcp/9", []string{"/ip4/10.0.0.1/tcp/9"}},
	} {
		got, err := p2pAddrs([]string{tt.in})
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v, %v", tt.in, got, err)
		}
	}
}

// FuzzConfigFile: no file makes the loader panic, and what it accepts is valid.
func FuzzConfigFile(f *testing.F) {
	f.Add("name: hq\nhttp:\n  listen: 127.0.0.1:1\n")
	f.Add("p2p: {listen: [a, b]}\nfederation: null\n")
	f.Add("a: &a [*a]")
	f.Add("name: 123\nlimits: {enabled: ~}")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := load(t, "--config", path)
		if err == nil && cfg.validate() != nil {
			t.Errorf("accepted, but not valid: %+v", cfg)
		}
		if err != nil && strings.TrimSpace(oneLine(err)) == "" {
			t.Error("an error without text")
		}
	})
}
