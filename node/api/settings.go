package api

import (
	"context"
	"log/slog"
	"net/http"
)

// Settings answers for what administrators set for the whole cluster.
type Settings interface {
	// ListSettings returns all there are, by name.
	ListSettings(ctx context.Context) ([]Setting, error)
	// ChangeSettings sets some, all or none.
	ChangeSettings(ctx context.Context, values map[string]string) (ConfigApplied, error)
}

// Setting is one of them.
type Setting struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Default string `json:"default"` // stands while it is not set
	Empty   string `json:"empty"`   // what people say for the empty value; "" if it cannot be empty
	Meaning string `json:"meaning"`
}

// ListSettings implements [Settings].
func (c *Client) ListSettings(ctx context.Context) ([]Setting, error) {
	return call[[]Setting](ctx, c, http.MethodGet, "/v1/settings", nil)
}

// ChangeSettings implements [Settings].
func (c *Client) ChangeSettings(ctx context.Context, values map[string]string) (ConfigApplied, error) {
	return call[ConfigApplied](ctx, c, http.MethodPatch, "/v1/settings", values)
}

func settingRoutes(mux *http.ServeMux, s Settings, log *slog.Logger) {
	route(mux, log, "GET /v1/settings", func(ctx context.Context, _ string, _ none) ([]Setting, error) {
		return s.ListSettings(ctx)
	})
	change := func(ctx context.Context, _ string, values map[string]string) (ConfigApplied, error) {
		return s.ChangeSettings(ctx, values)
	}
	route(mux, log, "PATCH /v1/settings", change)
}
