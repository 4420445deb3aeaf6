package client

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/tokenim/tokenim/api/client/spectest"
)

// serve sends a request to the handler itself, without the network.
func (p *person) serve(b *testing.B, method, path, body string) {
	req := httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
	req.Header.Set("Authorization", "Bearer "+p.token)
	w := httptest.NewRecorder()
	p.s.api.ServeHTTP(w, req)
	if w.Code != 200 {
		b.Fatalf("%d %s", w.Code, w.Body)
	}
}

// What the framework costs: routing, authentication, encoding.
func BenchmarkWhoami(b *testing.B) {
	alice := open(b).person("alice")
	b.ReportAllocs()
	for b.Loop() {
		alice.serve(b, "GET", v3+"/account/whoami", "")
	}
}

func BenchmarkPushRules(b *testing.B) {
	alice := open(b).person("alice")
	b.ReportAllocs()
	for b.Loop() {
		alice.serve(b, "GET", v3+"/pushrules/", "")
	}
}

// A message from the request to the answer after the commit, with the store in
// memory; parallel senders share commits.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 16} {
		b.Run(fmt.Sprint(senders), func(b *testing.B) {
			alice := open(b).person("alice")
			room := alice.room(obj{})
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(senders)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					alice.serve(b, "PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+fmt.Sprint(n.Add(1)),
						`{"msgtype":"m.text","body":"hello"}`)
				}
			})
		})
	}
}

func BenchmarkLogin(b *testing.B) {
	alice := open(b).person("alice")
	b.ReportAllocs()
	for b.Loop() {
		alice.serve(b, "POST", v3+"/login", `{"type":"m.login.password","user":"alice","password":"pw-alice","device_id":"D"}`)
	}
}

// The definitions are loaded once for all tests; this is what that takes.
func BenchmarkValidatedAnswer(b *testing.B) {
	spec := spectest.Open(b)
	alice := open(b).person("alice")
	for b.Loop() {
		a := alice.ok("GET", v3+"/pushrules/", nil)
		if err := spec.Check("GET", v3+"/pushrules/", a.status, a.raw); err != nil {
			b.Fatal(err)
		}
	}
}
