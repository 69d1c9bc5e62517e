package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

func by(name string) context.Context {
	return WithActor(context.Background(), Actor{Name: name, Source: "test"})
}

// records returns all records, none of which may be damaged.
func records(t testing.TB, s *Store) (all []Record) {
	t.Helper()
	for r, err := range s.Records() {
		check(t, err)
		all = append(all, r)
	}
	return all
}

func story(rs []Record) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, "%s %s %s: %s", r.Level, r.Actor.Name, r.Action, r.Object)
		for _, c := range r.Changes {
			fmt.Fprintf(&b, "; %s %q %q", c.Field, c.Before, c.After)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func verified(t testing.TB, s *Store, want int) {
	t.Helper()
	n, faults, err := s.VerifyAudit()
	check(t, err)
	if n != want || len(faults) > 0 {
		t.Errorf("%d records, want %d; faults %v", n, want, faults)
	}
}

func TestAudit(t *testing.T) {
	a, b := withPool(t, replica(t, 0), "10.0.0.0/16"), replica(t, 1)
	anna := by("anna")
	_, err := a.AddDevice(anna, "laptop", testKey(0))
	check(t, err)
	check(t, a.RenameDevice(anna, testKey(0), "notebook"))
	check(t, a.EnableDevice(by("bob"), testKey(0), false))
	check(t, a.SetPresharedKey(anna, testKey(0), Key{9}))
	check(t, a.SetSettings(anna, map[string][]byte{"key": []byte("secret"), SettingAuditLevel: []byte(AuditAll)}))
	check(t, a.RemoveDevice(anna, testKey(0)))
	check(t, a.Note(anna, "show", "cluster key"))
	check(t, a.Note(t.Context(), "show", "nothing"))
	rs := records(t, a)
	d, id := rs[0].Changes, "device notebook "+KeyString(testKey(0))
	want := fmt.Sprintf(`security anna add: device laptop %[1]s; created "" %[2]q; ip4 "" %[3]q; ip6 "" %[4]q; name "" "laptop"
all anna change: %[5]s; name "laptop" "notebook"
security bob change: %[5]s; enabled "yes" "no"
security anna change: %[5]s; psk "" "set"
security anna set: setting key; value "" "set"
security anna set: setting audit-level; value "" "all"
security anna remove: %[5]s; created %[2]q ""; ip4 %[3]q ""; ip6 %[4]q ""; name "notebook" ""; psk "set" ""
security anna show: cluster key
`, KeyString(testKey(0)), d[0].After, d[1].After, d[2].After, id)
	if got := story(rs); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	verified(t, a, 8)
	converge(t, a, b)
	verified(t, b, 8)
	if got := story(records(t, b)); got != want {
		t.Errorf("the other gateway has\n%s", got)
	}

	check(t, a.SetSettings(anna, map[string][]byte{SettingAuditLevel: []byte(AuditSecurity)}))
	_, err = a.AddDevice(anna, "phone", testKey(1))
	check(t, err)
	check(t, a.RenameDevice(anna, testKey(1), "telephone"))
	verified(t, a, 10)
	check(t, a.SetSettings(anna, map[string][]byte{SettingAuditLevel: []byte(AuditOff)}))
	check(t, a.RemoveDevice(anna, testKey(1)))
	check(t, a.Note(anna, "show", "cluster key"))
	verified(t, a, 11) // that it was turned off is the last thing that is told
}

// TestAuditRefused: what was refused is not recorded, and in one transaction stands what it says.
func TestAuditRefused(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/16")
	if err := s.RemoveDevice(by("anna"), testKey(0)); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.AddDevice(by("anna"), "-", testKey(0)); err == nil {
		t.Fatal("a bad name was taken")
	}
	verified(t, s, 0)
}

// TestAuditTellsWhatIsShown: that a conflict is found is no one's deed, that it is ended is, and what is not shown
// before its time was not there to be changed.
func TestAuditTellsWhatIsShown(t *testing.T) {
	a, b, _, key := split(t)
	check(t, a.RenameDevice(by("anna"), key, "left"))
	check(t, b.RenameDevice(by("bob"), key, "right"))
	converge(t, a, b)
	all := sameConflicts(t, a, b)
	_, err := a.ResolveConflict(by("anna"), all[0].ID, false)
	check(t, err)
	want := `all anna change: device left KEY; name "phone" "left"
security anna resolve: conflict ID
all bob change: device right KEY; name "phone" "right"
`
	converge(t, a, b)
	told := strings.NewReplacer(KeyString(key), "KEY", all[0].ID, "ID").Replace(story(records(t, b)))
	if told != want {
		t.Errorf("got\n%swant\n%s", told, want)
	}

	fast, c, _, _, key := twoYears(t)
	check(t, fast.RenameDevice(t.Context(), key, "far"))
	check(t, fast.EnableDevice(t.Context(), key, false))
	converge(t, fast, c)
	check(t, c.RenameDevice(by("anna"), key, "near"))
	want = fmt.Sprintf("all anna change: device near %s; name %q %q\n", KeyString(key), "phone", "near")
	if got := story(records(t, c)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestAuditChains restarts a gateway, cuts its records and goes on.
func TestAuditChains(t *testing.T) {
	dir, clock := t.TempDir(), &fakeClock{at: time.Unix(1e9, 0)}
	var s *Store
	for run := range 4 {
		var stop func()
		s, stop = start(t, Config{Dir: dir, Node: testNode(0), Now: clock.now})
		defer stop()
		for i := range 3 {
			check(t, s.Note(by("anna"), "show", fmt.Sprint(run, i)))
		}
		clock.move(time.Hour)
		if run < 3 {
			stop()
		}
	}
	verified(t, s, 12)
	cut := time.Unix(1e9, 0).Add(2*time.Hour + time.Minute) // all but the last run
	if n, err := s.CutAudit(t.Context(), cut, time.Time{}); err != nil || n != 9 {
		t.Fatalf("cut %d: %v", n, err)
	}
	check(t, s.Note(by("anna"), "show", "more"))
	verified(t, s, 4)
	sound(t, s)
	other := replica(t, 1)
	converge(t, s, other)
	verified(t, other, 4)
	if n, err := other.CutAudit(t.Context(), clock.at, time.Unix(1e9, 0)); err != nil || n != 0 {
		t.Fatalf("cut %d of another gateway: %v", n, err)
	}
	if n, err := other.CutAudit(t.Context(), time.Time{}, clock.at); err != nil || n != 3 {
		t.Fatalf("cut %d of another gateway: %v", n, err)
	}
	verified(t, other, 1)
}

// TestAuditTampered alters, removes and reorders records in the store.
func TestAuditTampered(t *testing.T) {
	s := replica(t, 0)
	for i := range 5 {
		check(t, s.Note(by("anna"), "show", fmt.Sprint(i)))
	}
	a := *s.author.Load()
	at := func(seq uint64) []byte { return entityKey(auditRef(a, seq)) }
	good := contents(t, s)[string(at(3))]
	set := func(key, value []byte) {
		t.Helper()
		check(t, s.db.Update(func(txn *badger.Txn) error {
			if value == nil {
				return txn.Delete(key)
			}
			return txn.Set(key, value)
		}))
	}
	faulty := func(what string, seq uint64, reason string) {
		t.Helper()
		_, faults, err := s.VerifyAudit()
		check(t, err)
		if len(faults) != 1 || faults[0].Seq != seq || faults[0].Run != a.incarnation() || faults[0].Origin != testNode(0) || faults[0].Reason != reason {
			t.Errorf("%s: %v", what, faults)
		}
	}
	e, err := decodeEntity(good)
	check(t, err)
	value := e.value(fieldRecord)
	begin := bytes.Index(good, value)
	for i := range value {
		bad := bytes.Clone(good)
		bad[begin+i] ^= 4
		set(at(3), bad)
		faulty(fmt.Sprint("byte ", i), 3, "is damaged")
	}
	set(at(3), []byte("nonsense"))
	faulty("nonsense", 3, "is damaged")
	set(at(3), nil)
	faulty("deleted", 3, "is missing")

	// Written anew, with a hash that fits.
	forged := Record{Time: time.Unix(1e9, 0), Action: "show", Object: "nothing", Level: AuditAll}
	forged.Before, err = func() ([32]byte, error) { r, err := decodeRecord(auditRef(a, 3).id(), value); return r.Before, err }()
	check(t, err)
	c := *e.get(fieldRecord)
	c.value, err = forged.encode(auditRef(a, 3).id())
	check(t, err)
	c, err = c.seal()
	check(t, err)
	b, err := (&entity{[]cell{c}}).encode()
	check(t, err)
	set(at(3), b)
	faulty("forged", 4, "does not follow the one before it")
	set(at(3), good)
	verified(t, s, 5)

	// The end of a chain, after which the next start's goes on.
	last := at(5)
	s.begin()
	a = *s.author.Load()
	check(t, s.Note(by("anna"), "show", "more"))
	verified(t, s, 6)
	set(last, nil)
	faulty("the end of a run", 1, "follows a record of an earlier start that is missing or damaged")
}

func FuzzRecord(f *testing.F) {
	id := auditRef(authorOf(testNode(0), 7), 1).id()
	r := Record{Actor: Actor{"a", "b"}, Action: "set", Changes: []FieldChange{{"f", "x", "y"}}, Level: AuditAll}
	good, err := r.encode(id)
	check(f, err)
	f.Add(id, good)
	f.Add(id, good[:40])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, id, value []byte) {
		if len(value) > 32 && len(id) == auditIDSize { // let the body through
			h := auditHash(id, value[32:])
			value = append(h[:], value[32:]...)
		}
		r, err := decodeRecord(id, value)
		if err != nil {
			return
		}
		again, err := r.encode(id)
		check(t, err)
		back, err := decodeRecord(id, again)
		if err != nil || back.Object != brief(r.Object) || len(back.Changes) != len(r.Changes) {
			t.Fatalf("%+v became %+v: %v", r, back, err)
		}
	})
}
