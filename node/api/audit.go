package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Audits answers for who changed what.
type Audits interface {
	// ListAudit returns records, oldest first.
	ListAudit(ctx context.Context, q AuditQuery) ([]AuditRecord, error)
	// VerifyAudit checks the chains of all gateways as they are stored here.
	VerifyAudit(ctx context.Context) (AuditReport, error)
}

// AuditQuery chooses records. Its zero value chooses all.
type AuditQuery struct {
	Since time.Time
	Level string // "security": only such
	Last  int    // only the last so many; 0: all
}

// AuditRecord is one change at one gateway. The records of one run of a gateway
// are a chain by their hashes.
type AuditRecord struct {
	Time     time.Time     `json:"time"`
	Gateway  string        `json:"gateway"` // name; its id if it has none any more
	Origin   string        `json:"origin"`  // id of the gateway
	Run      string        `json:"run"`     // of that gateway, from one start to the next
	Seq      uint64        `json:"seq"`     // in the run, from 1
	Level    string        `json:"level"`   // "security" or "all"
	Actor    string        `json:"actor"`
	Source   string        `json:"source"`
	Action   string        `json:"action"`
	Object   string        `json:"object"`
	Changes  []AuditChange `json:"changes,omitempty"`
	Previous string        `json:"previous"` // hash of the record before, hex
	Hash     string        `json:"hash"`     // hex
}

// AuditChange is one field before and after; secrets are only told to be set.
type AuditChange struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// AuditReport is the result of a verification.
type AuditReport struct {
	Records int          `json:"records"`
	Faults  []AuditFault `json:"faults"`
}

// AuditFault names a record that is not what its gateway wrote.
type AuditFault struct {
	Gateway string `json:"gateway"`
	Origin  string `json:"origin"`
	Run     string `json:"run"`
	Seq     uint64 `json:"seq"`
	Reason  string `json:"reason"`
}

// ListAudit implements [Audits].
func (c *Client) ListAudit(ctx context.Context, q AuditQuery) ([]AuditRecord, error) {
	v := url.Values{"level": {q.Level}, "last": {strconv.Itoa(q.Last)}}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	return call[[]AuditRecord](ctx, c, http.MethodGet, "/v1/audit?"+v.Encode(), nil)
}

// VerifyAudit implements [Audits].
func (c *Client) VerifyAudit(ctx context.Context) (AuditReport, error) {
	return call[AuditReport](ctx, c, http.MethodGet, "/v1/audit/verify", nil)
}

func auditRoutes(mux *http.ServeMux, s Audits, log *slog.Logger) {
	mux.HandleFunc("GET /v1/audit", func(w http.ResponseWriter, r *http.Request) {
		q, err := parseAuditQuery(r.URL.Query())
		var out []AuditRecord
		if err == nil {
			out, err = s.ListAudit(r.Context(), q)
		}
		if err != nil {
			refuse(w, log, r.Pattern, err)
			return
		}
		reply(w, http.StatusOK, out)
	})
	route(mux, log, "GET /v1/audit/verify", func(ctx context.Context, _ string, _ none) (AuditReport, error) {
		return s.VerifyAudit(ctx)
	})
}

func parseAuditQuery(v url.Values) (q AuditQuery, err error) {
	if q.Level = v.Get("level"); q.Level != "" && q.Level != "all" && q.Level != "security" {
		return q, Errorf(Invalid, "use all or security", "there is no level %q", q.Level)
	}
	if s := v.Get("since"); s != "" {
		if q.Since, err = time.Parse(time.RFC3339, s); err != nil {
			return q, Errorf(Invalid, "use RFC 3339: 2006-01-02T15:04:05Z", "%q is not a time", s)
		}
	}
	if s := v.Get("last"); s != "" {
		if q.Last, err = strconv.Atoi(s); err != nil || q.Last < 0 {
			return q, Errorf(Invalid, "", "%q is not a number of records", s)
		}
	}
	return q, nil
}
