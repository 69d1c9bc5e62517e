package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Backups answers for copies of what the gateways agree on. A backup holds all
// secrets of the cluster in the clear: whoever writes it to a disk encrypts it.
type Backups interface {
	// Backup writes one to w, of one committed state, while the gateway goes on. After
	// an error what was written is not a backup.
	Backup(ctx context.Context, w io.Writer) error
	// Restore merges one into the cluster; one that is damaged or of another
	// cluster is refused before anything is merged.
	Restore(ctx context.Context, r io.Reader) (Restored, error)
}

// Restored says what was restored.
type Restored struct {
	Cluster string    `json:"cluster"` // cluster id
	Made    time.Time `json:"made"`
	Version string    `json:"version"` // of the program that made it
	Cells   uint64    `json:"cells"`   // in the backup
	Devices uint64    `json:"devices"` // in the backup
	Before  int       `json:"before"`  // devices of the cluster before
	After   int       `json:"after"`   // and after
}

// Backup implements [Backups].
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Restore implements [Backups].
func (c *Client) Restore(ctx context.Context, r io.Reader) (Restored, error) {
	resp, err := c.send(ctx, http.MethodPost, "/v1/restore", r)
	if err != nil {
		return Restored{}, err
	}
	return answer[Restored](resp)
}

func backupRoutes(mux *http.ServeMux, s Backups, log *slog.Logger) {
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, r *http.Request) {
		out := &begun{w: w}
		err := s.Backup(r.Context(), out)
		switch {
		case err == nil:
		case !out.begun:
			refuse(w, log, r.Pattern, err)
		default: // cut the answer off, so that it cannot be taken for a whole one
			log.Error("request", "route", r.Pattern, "err", err)
			panic(http.ErrAbortHandler)
		}
	})
	mux.HandleFunc("POST /v1/restore", func(w http.ResponseWriter, r *http.Request) {
		out, err := s.Restore(r.Context(), r.Body)
		if err != nil {
			refuse(w, log, r.Pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
}

// begun knows whether anything was written.
type begun struct {
	w     io.Writer
	begun bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.begun = true
	return b.w.Write(p)
}
