package client

import (
	"encoding/json"

	"github.com/tokenim/tokenim/store"
)

// routesDevices are Device management.
func routesDevices() []route {
	return []route{
		{"GET", v3 + "/devices", user, (*Server).devices},
		{"GET", v3 + "/devices/{deviceId}", user, (*Server).device},
		{"PUT", v3 + "/devices/{deviceId}", user, (*Server).updateDevice},
		{"DELETE", v3 + "/devices/{deviceId}", user, (*Server).deleteDevice},
		{"POST", v3 + "/delete_devices", user, (*Server).deleteDevices},
	}
}

// device is a device as clients see it (definitions/client_device.yaml).
type device struct {
	ID       string `json:"device_id"`
	Name     string `json:"display_name,omitempty"`
	LastIP   string `json:"last_seen_ip,omitempty"`
	LastSeen int64  `json:"last_seen_ts,omitempty"`
}

func showDevice(d *store.Device) device { return device{d.ID, d.DisplayName, d.LastIP, d.LastSeen} }

// devices implements GET /devices (device_management.yaml).
func (s *Server) devices(c *call) (any, error) {
	list, err := s.accounts.Devices(c.Session.User)
	if err != nil {
		return nil, err
	}
	out := make([]device, 0, len(list))
	for _, d := range list {
		out = append(out, showDevice(d))
	}
	return map[string]any{"devices": out}, nil
}

// device implements GET /devices/{deviceId} (device_management.yaml).
func (s *Server) device(c *call) (any, error) {
	d, err := s.accounts.Device(c.Session.User, c.PathValue("deviceId"))
	if err != nil {
		return nil, err
	}
	return showDevice(d), nil
}

// updateDevice implements PUT /devices/{deviceId} (device_management.yaml): only
// for devices that exist.
func (s *Server) updateDevice(c *call) (any, error) {
	var req struct {
		Name *string `json:"display_name"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	id := c.PathValue("deviceId")
	if req.Name == nil {
		_, err := s.accounts.Device(c.Session.User, id)
		return nil, err
	}
	if err := checkDevice(id, *req.Name); err != nil {
		return nil, err
	}
	return nil, s.accounts.RenameDevice(c.Context(), c.Session.User, id, *req.Name)
}

// deleteDevice implements DELETE /devices/{deviceId} (device_management.yaml).
func (s *Server) deleteDevice(c *call) (any, error) {
	var req struct {
		Auth json.RawMessage `json:"auth"`
	}
	if err := c.decodeOptional(&req); err != nil {
		return nil, err
	}
	if err := s.confirm(c, req.Auth); err != nil {
		return nil, err
	}
	return nil, s.accounts.DeleteDevices(c.Context(), c.Session.User, []string{c.PathValue("deviceId")})
}

// deleteDevices implements POST /delete_devices (device_management.yaml).
func (s *Server) deleteDevices(c *call) (any, error) {
	var req struct {
		Auth    json.RawMessage `json:"auth"`
		Devices *[]string       `json:"devices"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Devices == nil {
		return nil, missingParam("devices")
	}
	if err := s.confirm(c, req.Auth); err != nil {
		return nil, err
	}
	return nil, s.accounts.DeleteDevices(c.Context(), c.Session.User, *req.Devices)
}
