package client

import "time"

// routesTyping are Typing Notifications.
func routesTyping() []route {
	return []route{{"PUT", v3 + "/rooms/{roomId}/typing/{userId}", user, (*Server).typing}}
}

// typing implements PUT /rooms/{roomId}/typing/{userId} (typing.yaml).
func (s *Server) typing(c *call) (any, error) {
	u, err := c.self()
	if err != nil {
		return nil, err
	}
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var body struct {
		Typing  *bool `json:"typing"`
		Timeout int64 `json:"timeout"` // milliseconds
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Typing == nil {
		return nil, missingParam("typing")
	}
	if body.Timeout < 0 {
		return nil, invalidParam("timeout is negative")
	}
	const most = int64(time.Hour / time.Millisecond) // the node has a lower limit of its own
	timeout := time.Duration(min(body.Timeout, most)) * time.Millisecond
	return nil, s.node.SetTyping(c.Context(), u, r, *body.Typing, timeout)
}
