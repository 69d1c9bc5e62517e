package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
)

// Roles of a gateway.
const (
	Active  = "active"
	Standby = "standby" // it takes devices only while no active gateway has room
)

// Administration answers for what may be changed of a gateway from any other. A ref is a name, an id, or the
// beginning of one.
type Administration interface {
	ChangeGateway(ctx context.Context, ref string, c GatewayChange) (Gateway, error)
	// SetRole makes a gateway active or a standby.
	SetRole(ctx context.Context, ref string, r RoleChange) (RoleChanged, error)
}

// GatewayChange changes what is not nil.
type GatewayChange struct {
	Name     *string `json:"name,omitempty"`
	Public   *string `json:"public,omitempty"` // host:port that devices use
	Capacity *int    `json:"capacity,omitempty"`
}

// RoleChange is what a gateway is to be.
type RoleChange struct {
	Role  string `json:"role"`  // Active or Standby
	Force bool   `json:"force"` // whatever speaks against it
}

// RoleChanged says what became of it.
type RoleChanged struct {
	Gateway Gateway `json:"gateway"`
	Warning string  `json:"warning"` // what Force has overridden; "": nothing
}

// ChangeGateway implements [Administration].
func (c *Client) ChangeGateway(ctx context.Context, ref string, ch GatewayChange) (Gateway, error) {
	return call[Gateway](ctx, c, http.MethodPatch, gateway(ref), ch)
}

// SetRole implements [Administration].
func (c *Client) SetRole(ctx context.Context, ref string, r RoleChange) (RoleChanged, error) {
	return call[RoleChanged](ctx, c, http.MethodPost, gateway(ref)+"/role", r)
}

func gateway(ref string) string { return "/v1/gateways/" + url.PathEscape(ref) }

func administrationRoutes(mux *http.ServeMux, s Administration, log *slog.Logger) {
	route(mux, log, "PATCH /v1/gateways/{ref}", func(ctx context.Context, ref string, c GatewayChange) (Gateway, error) {
		return s.ChangeGateway(ctx, ref, c)
	})
	const role = "POST /v1/gateways/{ref}/role"
	route(mux, log, role, func(ctx context.Context, ref string, r RoleChange) (RoleChanged, error) {
		return s.SetRole(ctx, ref, r)
	})
}
