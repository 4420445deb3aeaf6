package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/store"
)

// maxBody is the largest body of a request, in bytes.
const maxBody = 64 << 10

// handler answers a request, or returns the error to answer with.
type handler func(w http.ResponseWriter, r *http.Request) error

// methods are the handlers of one path.
type methods map[string]handler

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// open registers a path for everyone, without CORS headers. HEAD is GET
// without the body.
func (s *Server) open(pattern string, m methods) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		if err := s.dispatch(w, r, m[method], m); err != nil {
			s.fail(w, r, err)
		}
	})
}

// json registers a path of the API proper. Rights come from the bearer token
// alone, never from cookies, so web tools of any origin may ask.
func (s *Server) json(pattern string, m methods) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := s.dispatch(w, r, m[r.Method], m); err != nil {
			s.fail(w, r, err)
		}
	})
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, h handler, m methods) error {
	switch {
	case len(m) == 0:
		return &apiError{http.StatusNotFound, "M_UNRECOGNIZED", "Unrecognized request"}
	case h == nil:
		var allow []string
		for method := range m {
			allow = append(allow, method)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return &apiError{http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "Method not allowed"}
	}
	return h(w, r)
}

// admins lets only administrators call a handler: 401 without a valid access
// token, 403 with one of another user.
func (s *Server) admins(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.requireAdmin(r); err != nil {
			return err
		}
		return h(w, r)
	}
}

func (s *Server) requireAdmin(r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &apiError{http.StatusUnauthorized, "M_MISSING_TOKEN", "Missing access token"}
	}
	session, err := s.cfg.Accounts.Authenticate(r.Context(), token, remoteIP(r))
	if err != nil {
		return err
	}
	if !session.Admin() {
		return &apiError{http.StatusForbidden, "M_FORBIDDEN", "You are not an administrator"}
	}
	return nil
}

// remoteIP returns the address of the connection's other end. Headers say
// nothing that can be trusted.
func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// apiError is an answer in Matrix form.
type apiError struct {
	status  int
	code    string
	message string
}

// Error returns the code and the message.
func (e *apiError) Error() string { return e.code + ": " + e.message }

// fail answers with an error: the one table from errors to the outside.
// Errors that are not in it are logged and shown without detail.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *apiError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &e):
	case errors.As(err, &large):
		e = &apiError{http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "Request is too large"}
	case errors.Is(err, account.ErrUnknownToken):
		e = &apiError{http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "Unrecognised access token"}
	case errors.Is(err, account.ErrUserInUse):
		e = &apiError{http.StatusBadRequest, "M_USER_IN_USE", "User name is taken"}
	case errors.Is(err, account.ErrInvalidUsername):
		e = &apiError{http.StatusBadRequest, "M_INVALID_USERNAME", "User name is not valid"}
	case errors.Is(err, account.ErrExclusive):
		e = &apiError{http.StatusBadRequest, "M_EXCLUSIVE", "User name is reserved"}
	case errors.Is(err, account.ErrWeakPassword):
		e = &apiError{http.StatusBadRequest, "M_WEAK_PASSWORD", "Password is too weak"}
	case errors.Is(err, ErrLink):
		e = &apiError{http.StatusBadRequest, "M_INVALID_PARAM", strings.ReplaceAll(err.Error(), "\n", "; ")}
	case errors.Is(err, ErrUnknownPeer):
		e = &apiError{http.StatusNotFound, "M_NOT_FOUND", "No peer of that name is pinned"}
	case errors.Is(err, store.ErrDiskFull):
		e = &apiError{http.StatusInsufficientStorage, "M_RESOURCE_LIMIT_EXCEEDED", "The disk is almost full"}
	default:
		if r.Context().Err() == nil {
			s.log.Error("request failed", "class", class(r), "err", err)
		}
		e = &apiError{http.StatusInternalServerError, "M_UNKNOWN", "Internal error"}
	}
	writeJSON(w, e.status, map[string]string{"errcode": e.code, "error": e.message}) // nobody is left to tell
}

// readJSON reads the body, which must be one JSON object, into v.
func readJSON(r *http.Request, v any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if !json.Valid(raw) {
		return &apiError{http.StatusBadRequest, "M_NOT_JSON", "Body is not JSON"}
	}
	if raw = []byte(strings.TrimSpace(string(raw))); raw[0] != '{' {
		return &apiError{http.StatusBadRequest, "M_BAD_JSON", "Body is not a JSON object"}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) && te.Field != "" {
			return &apiError{http.StatusBadRequest, "M_BAD_JSON", fmt.Sprintf("%s has the wrong type", te.Field)}
		}
		return &apiError{http.StatusBadRequest, "M_BAD_JSON", "Body has a wrong type"}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(raw, '\n'))
	return ignoreWrite(err)
}

func plain(w http.ResponseWriter, status int, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err := io.WriteString(w, text)
	return ignoreWrite(err)
}

// ignoreWrite drops the error of writing an answer: the client is gone, and
// there is no one to give another answer to.
func ignoreWrite(error) error { return nil }
