package client

import (
	"net/http"
	"strings"

	"github.com/tokenim/tokenim/node/account"
)

// access says who may call a route.
type access int

const (
	public   access = iota // no access token
	user                   // a valid access token
	optional               // a token is read if there is one, and must be valid then
)

// route is one operation. pattern is a net/http pattern without the method,
// relative to the host: "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}".
// The names in braces are those of the specification's definitions.
type route struct {
	method  string
	pattern string
	access  access
	handle  func(*Server, *call) (any, error)
}

// call is one request. A handler returns what is written as the JSON body of a
// 200 (nil: {}; json.RawMessage: as it is) or an error, which errors.go maps to
// status and code. request.go has what handlers read a request with.
type call struct {
	http.ResponseWriter
	*http.Request
	Session account.Session
}

// v3 and v1 are the base paths of most operations.
const (
	v3 = "/_matrix/client/v3"
	v1 = "/_matrix/client/v1"
)

// shortForms lists patterns under which an operation can be reached besides its
// own: an empty state key may be left out with or without its slash
// (room_state.yaml), and clients write the push rule collections both ways.
var shortForms = map[string][]string{
	v3 + "/rooms/{roomId}/state/{eventType}/{stateKey}": {
		v3 + "/rooms/{roomId}/state/{eventType}",
		v3 + "/rooms/{roomId}/state/{eventType}/{$}",
	},
	v3 + "/pushrules/":        {v3 + "/pushrules"},
	v3 + "/pushrules/global/": {v3 + "/pushrules/global"},
}

// endpoint holds the routes of one path by method.
type endpoint struct {
	pattern string // as the routes have it
	params  []string
	methods map[string]*route
}

// endpoints groups a table by path and adds the short forms. The mux pattern is
// the key: a trailing slash stands for itself, not for a subtree.
func endpoints(table []route) map[string]*endpoint {
	all := map[string]*endpoint{}
	add := func(pattern string, r *route) {
		key := pattern
		if strings.HasSuffix(key, "/") {
			key += "{$}"
		}
		e := all[key]
		if e == nil {
			e = &endpoint{pattern: pattern, params: paramsOf(pattern), methods: map[string]*route{}}
			all[key] = e
		}
		if e.methods[r.method] == nil {
			e.methods[r.method] = r
		}
	}
	for i := range table {
		r := &table[i]
		add(r.pattern, r)
		for _, p := range shortForms[r.pattern] {
			add(p, r)
		}
	}
	return all
}

// paramsOf returns the names in braces of a pattern.
func paramsOf(pattern string) []string {
	var names []string
	for _, seg := range strings.Split(pattern, "/") {
		if strings.HasPrefix(seg, "{") && seg != "{$}" {
			names = append(names, strings.Trim(seg, "{}"))
		}
	}
	return names
}

// allow lists the methods for an Allow header.
func (e *endpoint) allow() string {
	list := make([]string, 0, 6)
	for _, m := range []string{"GET", "POST", "PUT", "DELETE"} {
		if e.methods[m] != nil {
			list = append(list, m)
			if m == "GET" {
				list = append(list, "HEAD")
			}
		}
	}
	return strings.Join(append(list, "OPTIONS"), ", ")
}
