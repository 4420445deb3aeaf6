package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node/event"
)

// envPrefix starts the name of every environment variable that sets a key.
const envPrefix = "TOKENIM_"

// testEnv is the one variable with the prefix that is no key: the tests of
// this project read it.
const testEnv = envPrefix + "MATRIX_SPEC"

// keyFlags are the flags that set a key, by flag.
var keyFlags = map[string]string{"name": "name", "data": "data", "http": "http.listen", "p2p": "p2p.listen"}

// addConfigFlags gives a command the flags of every command that works on a
// data directory.
func addConfigFlags(flags *pflag.FlagSet) {
	d := defaultConfig()
	flags.String("config", "", "configuration `FILE` (default DATA/"+configFile+")")
	flags.String("data", d.Data, "data `DIRECTORY`")
	flags.String("name", "", "`NAME` of the node (default: made from its key)")
	flags.String("http", d.HTTP.Listen, "`HOST:PORT` for clients")
	flags.StringSlice("p2p", nil, "`ADDRESSES` for other nodes, HOST:PORT or multiaddresses")
}

// leaf is a key that has a value.
type leaf struct {
	key   string // "http.listen"
	value any
}

// leaves lists the keys of a configuration in the order of the struct.
func leaves(c Config) []leaf {
	var out []leaf
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			key := prefix + v.Type().Field(i).Tag.Get("yaml")
			if f := v.Field(i); f.Kind() == reflect.Struct {
				walk(key+".", f)
			} else {
				out = append(out, leaf{key, f.Interface()})
			}
		}
	}
	walk("", reflect.ValueOf(c))
	return out
}

// envName returns the environment variable of a key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// loadConfig returns the configuration in effect: flag over environment over
// file over default. The flags are those of addConfigFlags. Nothing is opened
// or changed; every error names the place and what is wrong there.
func loadConfig(flags *pflag.FlagSet) (Config, error) {
	v := viper.New()
	known := map[string]bool{testEnv: true}
	for _, l := range leaves(defaultConfig()) {
		v.SetDefault(l.key, l.value)
		known[envName(l.key)] = true
		if err := v.BindEnv(l.key, envName(l.key)); err != nil {
			return Config{}, err
		}
	}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, envPrefix) && !known[name] {
			return Config{}, fmt.Errorf("unknown environment variable %s: `tokenim config` lists the keys", name)
		}
	}
	for flag, key := range keyFlags {
		if err := v.BindPFlag(key, flags.Lookup(flag)); err != nil {
			return Config{}, err
		}
	}
	file, err := readConfigFile(v, flags)
	if err != nil {
		return Config{}, err
	}
	var cfg Config
	err = v.Unmarshal(&cfg, func(dc *mapstructure.DecoderConfig) { dc.TagName = "yaml" })
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	trimLists(&cfg)
	if err := cfg.validate(); err != nil {
		if file != "" {
			return Config{}, fmt.Errorf("configuration (%s, environment and flags): %w", file, err)
		}
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return cfg, nil
}

// readConfigFile gives v the values of the configuration file and returns its
// path, empty if there is none.
func readConfigFile(v *viper.Viper, flags *pflag.FlagSet) (string, error) {
	file, _ := flags.GetString("config")
	data := v.GetString("data")
	given := file != ""
	if !given {
		file = filepath.Join(data, configFile)
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !given {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("configuration file: %w", err)
	}
	var strict Config
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&strict); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s: %s", file, yamlProblem(err))
	}
	if err := dec.Decode(new(Config)); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s: more than one YAML document", file)
	}
	if !given && strict.Data != "" && !samePath(strict.Data, data) {
		return "", fmt.Errorf("%s: data is %q, but this is the file of %q: remove the key, or name the file with --config", file, strict.Data, data)
	}
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(raw)); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return file, nil
}

// unknownField is how the YAML decoder says that a key does not exist.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// yamlProblem puts the decoder's error into words for people, on one line.
func yamlProblem(err error) string {
	text := err.Error()
	var te *yaml.TypeError
	if errors.As(err, &te) {
		text = strings.Join(te.Errors, "; ")
	}
	text = unknownField.ReplaceAllString(text, `unknown key "$1"`)
	return strings.TrimPrefix(text, "yaml: ")
}

func samePath(a, b string) bool {
	aa, err1 := filepath.Abs(a)
	bb, err2 := filepath.Abs(b)
	return err1 == nil && err2 == nil && aa == bb
}

// trimLists removes the spaces around the elements of lists, which the
// environment gives as one comma-separated string.
func trimLists(c *Config) {
	for _, l := range []*[]string{&c.P2P.Listen, &c.P2P.Announce, &c.Federation.Peers} {
		out := []string{}
		for _, s := range *l {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
		*l = out
	}
}

// validate says what is wrong with a configuration, before anything is opened.
func (c Config) validate() error {
	if c.Name != "" {
		if _, err := event.ParseServer(c.Name); err != nil {
			return fmt.Errorf("name %q: %w", c.Name, err)
		}
	}
	if c.Data == "" {
		return errors.New("data: no directory given")
	}
	if err := validHostPort(c.HTTP.Listen); err != nil {
		return fmt.Errorf("http.listen %q: %w", c.HTTP.Listen, err)
	}
	if c.HTTP.PublicURL != "" {
		u, err := url.Parse(c.HTTP.PublicURL)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("http.public_url %q: want https://HOST", c.HTTP.PublicURL)
		}
	}
	if _, err := p2pAddrs(c.P2P.Listen); err != nil {
		return fmt.Errorf("p2p.listen: %w", err)
	}
	if _, err := p2pAddrs(c.P2P.Announce); err != nil {
		return fmt.Errorf("p2p.announce: %w", err)
	}
	for _, l := range c.Federation.Peers {
		if _, err := federation.ParseLink(l); err != nil {
			return fmt.Errorf("federation.peers: %w", err)
		}
	}
	if c.Federation.Mode == "vetted" || c.Federation.Mode == "open" {
		return fmt.Errorf("federation.mode %q is not offered by this version: use closed and pin peers", c.Federation.Mode)
	}
	for _, e := range []struct {
		key, value string
		allowed    []string
	}{
		{"federation.mode", c.Federation.Mode, []string{"closed"}},
		{"registration.mode", c.Registration.Mode, []string{"closed", "token", "open"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", c.Log.Format, []string{"text", "json"}},
	} {
		if !slices.Contains(e.allowed, e.value) {
			return fmt.Errorf("%s %q: want %s", e.key, e.value, strings.Join(e.allowed, ", "))
		}
	}
	return nil
}

// validHostPort checks HOST:PORT with a numeric port.
func validHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want HOST:PORT")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port must be a number from 0 to 65535")
	}
	return nil
}

// p2pAddrs returns the multiaddresses of a list of addresses, each of which is
// one already or HOST:PORT, which stands for QUIC and TCP.
func p2pAddrs(list []string) ([]string, error) {
	var out []string
	for _, s := range list {
		if strings.HasPrefix(s, "/") {
			if _, err := multiaddr.NewMultiaddr(s); err != nil {
				return nil, fmt.Errorf("%q is not a multiaddress: %w", s, err)
			}
			out = append(out, s)
			continue
		}
		if err := validHostPort(s); err != nil {
			return nil, fmt.Errorf("%q: %w or a multiaddress", s, err)
		}
		host, port, _ := net.SplitHostPort(s)
		hosts := []string{"/ip4/0.0.0.0", "/ip6/::"}
		if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
			hosts = []string{"/ip4/" + ip.String()}
		} else if ip != nil {
			hosts = []string{"/ip6/" + ip.String()}
		} else if host != "" {
			hosts = []string{"/dns/" + host}
		}
		for _, h := range hosts {
			for _, a := range []string{h + "/udp/" + port + "/quic-v1", h + "/tcp/" + port} {
				if _, err := multiaddr.NewMultiaddr(a); err != nil {
					return nil, fmt.Errorf("%q: %w", s, err)
				}
				out = append(out, a)
			}
		}
	}
	return out, nil
}
