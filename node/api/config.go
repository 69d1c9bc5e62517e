package api

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
)

// Configs answers for the configuration of the cluster as one document, and for
// what further gateways start with.
type Configs interface {
	// Config returns it; preshared keys only with secrets.
	Config(ctx context.Context, secrets bool) (Config, error)
	// ApplyConfig brings the cluster to what a document says.
	ApplyConfig(ctx context.Context, a ConfigApply) (ConfigApplied, error)
	// PoolConfig returns it; the cluster key only with secrets.
	PoolConfig(ctx context.Context, secrets bool) (PoolConfig, error)
}

// Config is what administrators decide of a cluster. It is the same for the same
// configuration: devices by name, then key.
type Config struct {
	Settings map[string]string `json:"settings"`
	Devices  []ConfigDevice    `json:"devices"`
}

// ConfigDevice is a device in a [Config].
type ConfigDevice struct {
	Name         string   `json:"name"`
	Key          string   `json:"key"`
	Addresses    []string `json:"addresses,omitempty"` // none: those it has, or new ones
	Enabled      bool     `json:"enabled"`
	PresharedKey *string  `json:"preshared_key,omitempty"` // nil: as it is; "": none
}

// ConfigApply is a configuration that is wanted.
type ConfigApply struct {
	Config Config `json:"config"` // settings that are not in it stay as they are
	DryRun bool   `json:"dry_run"`
	Remove bool   `json:"remove"` // remove devices that are not in it; without, such are refused unless DryRun
}

// ConfigApplied says what was done, or with DryRun what would be.
type ConfigApplied struct {
	Changes []ConfigChange `json:"changes"`
}

// What happens to a thing in a [ConfigChange].
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// ConfigChange is one difference.
type ConfigChange struct {
	What   string   `json:"what"` // Added, Removed or Changed
	Object string   `json:"object"`
	Fields []string `json:"fields,omitempty"` // "name: old → new"; no secrets
}

// PoolConfig is what a further gateway starts with.
type PoolConfig struct {
	Key       string `json:"key"`  // of the cluster: a secret; "" if it was not asked for
	Join      string `json:"join"` // host:port of the gateway that was asked
	Listen    string `json:"listen"`
	Mesh      string `json:"mesh"`
	Capacity  int    `json:"capacity"`
	Dataplane string `json:"dataplane"`
	Cluster   string `json:"cluster"`
}

// Config implements [Configs].
func (c *Client) Config(ctx context.Context, secrets bool) (Config, error) {
	return call[Config](ctx, c, http.MethodGet, "/v1/config?secrets="+strconv.FormatBool(secrets), nil)
}

// ApplyConfig implements [Configs].
func (c *Client) ApplyConfig(ctx context.Context, a ConfigApply) (ConfigApplied, error) {
	return call[ConfigApplied](ctx, c, http.MethodPost, "/v1/config", a)
}

// PoolConfig implements [Configs].
func (c *Client) PoolConfig(ctx context.Context, secrets bool) (PoolConfig, error) {
	return call[PoolConfig](ctx, c, http.MethodGet, "/v1/pool?secrets="+strconv.FormatBool(secrets), nil)
}

// maxConfig bounds a configuration, in bytes: some 400,000 devices.
const maxConfig = 128 << 20

func configRoutes(mux *http.ServeMux, s Configs, log *slog.Logger) {
	mux.HandleFunc("GET /v1/config", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.Config(r.Context(), r.URL.Query().Get("secrets") == "true")
		if err != nil {
			refuse(w, log, r.Pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
	mux.HandleFunc("POST /v1/config", func(w http.ResponseWriter, r *http.Request) {
		var in ConfigApply
		if err := decode(http.MaxBytesReader(w, r.Body, maxConfig), &in); err != nil {
			reply(w, http.StatusBadRequest, Errorf(Invalid, "", "request: %v", err))
			return
		}
		out, err := s.ApplyConfig(r.Context(), in)
		if err != nil {
			refuse(w, log, r.Pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
	mux.HandleFunc("GET /v1/pool", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.PoolConfig(r.Context(), r.URL.Query().Get("secrets") == "true")
		if err != nil {
			refuse(w, log, r.Pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
}
