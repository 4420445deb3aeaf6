package client

import (
	"net/http"

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
type route struct {
	method  string
	pattern string
	access  access
	handle  func(*Server, *call) (any, error)
}

// call is one request. A handler returns what is written as the JSON body of a
// 200 (nil: {}; json.RawMessage: as it is) or an error, which errors.go maps to
// status and code.
type call struct {
	http.ResponseWriter
	*http.Request
	Session account.Session
}
