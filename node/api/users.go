package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Users answers for the administrators of the cluster.
type Users interface {
	ListUsers(ctx context.Context) ([]User, error)
	AddUser(ctx context.Context, u NewUser) (User, error)
	SetPassword(ctx context.Context, name string, p Password) error
	RemoveUser(ctx context.Context, name string) error
}

// User is an administrator.
type User struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Created time.Time `json:"created"`
}

// NewUser makes an administrator.
type NewUser struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// Password is a user's new one.
type Password struct {
	Password string `json:"password"`
}

func userRoutes(mux *http.ServeMux, s Service, log *slog.Logger) {
	route(mux, log, "GET /v1/users", func(ctx context.Context, _ string, _ none) ([]User, error) { return s.ListUsers(ctx) })
	route(mux, log, "POST /v1/users", func(ctx context.Context, _ string, u NewUser) (User, error) { return s.AddUser(ctx, u) })
	route(mux, log, "PUT /v1/users/{ref}/password", func(ctx context.Context, ref string, p Password) (none, error) {
		return none{}, s.SetPassword(ctx, ref, p)
	})
	route(mux, log, "DELETE /v1/users/{ref}", func(ctx context.Context, ref string, _ none) (none, error) {
		return none{}, s.RemoveUser(ctx, ref)
	})
}

func user(name string) string { return "/v1/users/" + url.PathEscape(name) }

// ListUsers implements [Users].
func (c *Client) ListUsers(ctx context.Context) ([]User, error) {
	return call[[]User](ctx, c, http.MethodGet, "/v1/users", nil)
}

// AddUser implements [Users].
func (c *Client) AddUser(ctx context.Context, u NewUser) (User, error) {
	return call[User](ctx, c, http.MethodPost, "/v1/users", u)
}

// SetPassword implements [Users].
func (c *Client) SetPassword(ctx context.Context, name string, p Password) error {
	_, err := call[none](ctx, c, http.MethodPut, user(name)+"/password", p)
	return err
}

// RemoveUser implements [Users].
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	_, err := call[none](ctx, c, http.MethodDelete, user(name), nil)
	return err
}
