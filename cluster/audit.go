package cluster

import (
	"context"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// metaAudit is the end of this gateway's chain: author, seq and hash of the last record.
var metaAudit = []byte("maudit")

// Note records something that changes nothing here, such as a secret that was
// shown. Without an actor in ctx, or with the audit off, it does nothing.
func (s *Store) Note(ctx context.Context, action, object string) error {
	a := actorOf(ctx)
	if a == nil {
		return nil
	}
	return s.submit(ctx, newRequest(func(t *tx) error {
		level, err := t.auditLevel()
		if err != nil || level == AuditOff {
			return err
		}
		return t.record(Record{Actor: *a, Action: action, Object: object, Level: AuditSecurity})
	}))
}

// audit records what this transaction has changed so far.
func (t *tx) audit(by Actor) error {
	level, err := t.auditLevel()
	if err != nil || level == AuditOff {
		return err
	}
	for _, r := range slices.Sorted(maps.Keys(t.refs)) {
		rec := recordOf(r, t.before[r], t.shown(r))
		if rec.Action == "" || level == AuditSecurity && rec.Level != AuditSecurity {
			continue
		}
		rec.Actor = by
		if err := t.record(rec); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) auditLevel() (string, error) {
	v, ok, err := readSetting(t, SettingAuditLevel)
	if !ok {
		return AuditAll, err
	}
	return string(v), err
}

// record writes a record at the end of the chain.
func (t *tx) record(r Record) error {
	b, err := t.get(metaAudit)
	if err != nil {
		return err
	}
	const end = len(author{}) + 8 + 32
	seq := uint64(1)
	if len(b) == end {
		r.Before = [32]byte(b[end-32:])
		if author(b) == t.author {
			seq = binary.BigEndian.Uint64(b[len(author{}):]) + 1
		}
	}
	at := auditRef(t.author, seq)
	r.Time = time.UnixMilli(int64(t.time >> 16)) //nolint:gosec // 48 bits
	value, err := r.encode(at.id())
	if err != nil {
		return err
	}
	t.set(metaAudit, append(at.id(), r.Hash[:]...))
	return t.put(at, fieldRecord, value)
}

// recordOf says what happened to an entity as it is shown. A record without an action is none.
func recordOf(r ref, was, is *entity) Record {
	rec := Record{Level: AuditSecurity, Action: "change", Changes: fieldChanges(r, was, is)}
	switch {
	case is.alive() && !was.alive():
		rec.Action = "add"
	case was.alive() && !is.alive():
		rec.Action = "remove"
	}
	if (r.isDevice() || r.kind() == kindSetting) && rec.Action == "change" && len(rec.Changes) == 0 {
		return Record{} // written again as it stood
	}
	name := string(is.value(fieldName))
	if name == "" {
		name = string(was.value(fieldName))
	}
	switch r.kind() {
	case kindAudit, kindAuditCut, kindHave, kindRing:
		return Record{}
	case kindConflict:
		if rec.Action != "remove" {
			return Record{} // it was found, not made
		}
		rec.Action, rec.Changes = "resolve", nil
	case kindDevice:
		renamed := func(c FieldChange) bool { return c.Field == fieldName }
		if rec.Action == "change" && !slices.ContainsFunc(rec.Changes, func(c FieldChange) bool { return !renamed(c) }) {
			rec.Level = AuditAll
		}
	case kindGateway:
		rec.Level = AuditAll
	case kindSetting:
		rec.Action = "set"
	case kindKey:
		k, gone, _ := keyOf(r.id(), is)
		name = string(k.Kind)
		rec.Action, rec.Changes = "rotate", nil
		switch {
		case gone:
			rec.Action = "remove"
		case was.get(fieldSecret) != nil:
			rec.Action, rec.Changes = "force", fieldChanges(r, was, is)
		}
	case kindToken:
		rec.Action, name = tokenAction(was, is)
	case kindAdmission:
		rec.Action = "admit"
		if was.get(fieldLeft) == nil && is.get(fieldLeft) != nil {
			rec.Action = "leave"
		}
		if is.evicted() && !was.evicted() {
			rec.Action = "evict"
		}
		if a, ok := admissionOf(r.id(), is); ok {
			name = a.Name
		}
	}
	id := r.public().ID
	rec.Object = strings.Join(strings.Fields(r.kind()+" "+name+" "+id), " ")
	return rec
}

// fieldChanges compares two states of an entity, field by field.
func fieldChanges(r ref, was, is *entity) (all []FieldChange) {
	if r.kind() == kindDevice && was.alive() && is.alive() && enabled(was) != enabled(is) {
		all = append(all, FieldChange{"enabled", yesNo(enabled(was)), yesNo(enabled(is))})
	}
	fields := map[string]struct{}{}
	for _, e := range []*entity{was, is} {
		for i := range e.cells {
			fields[e.cells[i].field] = struct{}{}
		}
	}
	for _, f := range slices.Sorted(maps.Keys(fields)) {
		a, b := was.get(f), is.get(f)
		if f == "" || f == fieldTold && r.kind() == kindGateway || strings.HasPrefix(f, fieldOff) || a != nil && b != nil &&
			string(a.value) == string(b.value) {
			continue
		}
		all = append(all, FieldChange{f, shown(r, f, a), shown(r, f, b)})
	}
	return all
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// publicSettings are those whose values may be told.
var publicSettings = []string{
	settingPool, settingULA, SettingAuditLevel, SettingAuditDays, SettingMaxInstances, SettingJoins, SettingJoinHosts,
}

// PublicSetting reports whether the value of a setting may be told. Any other counts as a secret.
func PublicSetting(name string) bool { return slices.Contains(publicSettings, name) }

// shown returns a value as a record holds it: "" for none, "set" for what is secret or
// unknown or no text.
func shown(r ref, field string, c *cell) string {
	if c == nil || len(c.value) == 0 {
		return ""
	}
	text := false
	switch r.kind() {
	case kindDevice:
		if a, ok := netip.AddrFromSlice(c.value); ok && (field == fieldIPv4 || field == fieldIPv6) {
			return a.String()
		}
		text = field == fieldName || field == fieldCreated
	case kindGateway:
		text = true
	case kindUser:
		text = field == fieldRole || field == fieldCreated
	case kindSetting:
		text = PublicSetting(string(r.id()))
	}
	odd := func(c rune) bool { return !unicode.IsPrint(c) }
	if !text || !utf8.Valid(c.value) || strings.ContainsFunc(string(c.value), odd) {
		return "set"
	}
	return string(c.value)
}
