package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

const (
	day = 24 * time.Hour
	// cutEvery is how often records that are old enough are removed.
	cutEvery = time.Hour
	// cutOthers is how much older the records of another gateway are before this one
	// removes them: that one may be gone.
	cutOthers = 7 * day
)

// itself is the actor of what a gateway does of its own accord.
var itself = cluster.Actor{Name: "gateway"}

// whoAsks is an http.Server's ConnContext: it says who is at the other end.
func whoAsks(ctx context.Context, c net.Conn) context.Context {
	a := cluster.Actor{Name: "unknown", Source: "control socket"}
	if name, pid, ok := peerOf(c); ok {
		a = cluster.Actor{Name: name, Source: fmt.Sprintf("control socket, process %d", pid)}
	}
	return cluster.WithActor(ctx, a)
}

// note records what changes nothing. That it could not is logged: the answer
// is given all the same.
func (n *Node) note(ctx context.Context, action, object string) {
	if err := n.store.Note(ctx, action, object); err != nil {
		n.log.Error("write audit", "action", action, "object", object, "err", err)
	}
}

// trimAudit removes records when they are old enough.
func (n *Node) trimAudit(ctx context.Context) error {
	for sleep(ctx, cutEvery) == nil {
		text, err := n.setting(cluster.SettingAuditDays)
		days := 0
		if err == nil {
			days, err = strconv.Atoi(text)
		}
		if err == nil && days > 0 {
			own := n.cfg.Now().Add(-time.Duration(days) * day)
			_, err = n.store.CutAudit(ctx, own, own.Add(-cutOthers))
		}
		if err != nil && ctx.Err() == nil {
			n.log.Error("cut audit", "err", err)
		}
	}
	return nil
}

// ListAudit implements [api.Audits].
func (n *Node) ListAudit(_ context.Context, q api.AuditQuery) ([]api.AuditRecord, error) {
	names, err := n.gatewayNames()
	if err != nil {
		return nil, err
	}
	out := []api.AuditRecord{}
	for r, err := range n.store.Records() {
		var fault cluster.Fault
		if errors.As(err, &fault) {
			continue // for VerifyAudit to tell
		}
		if err != nil {
			return nil, err
		}
		if r.Time.Before(q.Since) || q.Level == cluster.AuditSecurity && r.Level != cluster.AuditSecurity {
			continue
		}
		out = append(out, auditRecord(r, names))
	}
	slices.SortStableFunc(out, func(a, b api.AuditRecord) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Origin, b.Origin))
	})
	if q.Last > 0 {
		out = out[max(0, len(out)-q.Last):]
	}
	return out, nil
}

func auditRecord(r cluster.Record, names map[cluster.Node]string) api.AuditRecord {
	a := api.AuditRecord{
		Time: r.Time, Gateway: auditGateway(r.Origin, names), Origin: r.Origin.String(), Run: runText(r.Run), Seq: r.Seq,
		Level: r.Level, Actor: r.Actor.Name, Source: r.Actor.Source, Action: r.Action, Object: r.Object,
		Previous: hex.EncodeToString(r.Before[:]), Hash: hex.EncodeToString(r.Hash[:]),
	}
	if r.Actor == itself {
		a.Actor = "gateway " + a.Gateway
	}
	for _, c := range r.Changes {
		a.Changes = append(a.Changes, api.AuditChange(c))
	}
	return a
}

func auditGateway(id cluster.Node, names map[cluster.Node]string) string {
	return cmp.Or(names[id], id.String())
}

func runText(run uint64) string { return fmt.Sprintf("%016x", run) }

// VerifyAudit implements [api.Audits].
func (n *Node) VerifyAudit(context.Context) (api.AuditReport, error) {
	names, err := n.gatewayNames()
	if err != nil {
		return api.AuditReport{}, err
	}
	records, faults, err := n.store.VerifyAudit()
	if err != nil {
		return api.AuditReport{}, err
	}
	out := api.AuditReport{Records: records, Faults: []api.AuditFault{}}
	for _, f := range faults {
		out.Faults = append(out.Faults, api.AuditFault{
			Gateway: auditGateway(f.Origin, names), Origin: f.Origin.String(), Run: runText(f.Run), Seq: f.Seq, Reason: f.Reason,
		})
	}
	return out, nil
}
