package node_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatemesh/mesh"
	"gatemesh/node"
	"gatemesh/node/api"
	"gatemesh/node/nodetest"
)

// person sits at a gateway that logs on.
type person struct {
	user, password string
	distrusts      bool
	shown          string // fingerprint
	typed          int
}

var errDistrust = errors.New("that is not the one")

func (p *person) logon() *node.Logon {
	return &node.Logon{
		User: p.user,
		Trust: func(_ netip.AddrPort, fingerprint string) error {
			p.shown = fingerprint
			if p.distrusts {
				return errDistrust
			}
			return nil
		},
		Password: func() (string, error) { p.typed++; return p.password, nil },
	}
}

// knock starts a gateway that logs on at another as p.
func knock(g, at *nodetest.Gateway, p *person) {
	g.Start(func(c *node.Config) { c.Key, c.Join, c.Logon = nil, at.Addr.String(), p.logon() })
}

// flaky is a network in which a number of dials succeed.
type flaky struct {
	mesh.Network
	dials int
}

func (f *flaky) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if f.dials--; f.dials < 0 {
		return nil, syscall.ENETUNREACH
	}
	return f.Network.Dial(ctx, to)
}

// A newcomer that is cut off, wherever that is, gets in with the same command; once it has a token nobody is asked
// again.
func TestLogonIsCutOff(t *testing.T) {
	node.CheapPasswords(t)
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a := w.Gateway(1, "a")
		a.Start()
		w.WaitReady(15*time.Second, a)
		if _, err := a.AddUser(ctx, api.NewUser{Name: "anna", Password: "korrekt pferd"}); err != nil {
			t.Fatal(err)
		}
		x := w.Gateway(2, "x")
		for dials := range 3 {
			p := &person{user: "anna", password: "korrekt pferd"}
			x.Start(func(c *node.Config) {
				c.Key, c.Join, c.Logon = nil, a.Addr.String(), p.logon()
				c.Network = &flaky{c.Network, dials}
			})
			if dials < 2 { // the fingerprint, the password
				if err := x.Ended(time.Minute); err == nil || p.typed != dials {
					t.Errorf("%d dials: %v, %d passwords", dials, err, p.typed)
				}
				continue
			}
			time.Sleep(5 * time.Second)
			x.Stop()
			if p.typed != 1 {
				t.Errorf("%d passwords", p.typed)
			}
		}
		p := &person{user: "anna"}
		knock(x, a, p)
		w.WaitReady(15*time.Second, a, x)
		if p.typed != 0 || p.shown != "" {
			t.Errorf("asked again: %+v", p)
		}
		if tokens, err := a.ListTokens(ctx); err != nil || len(tokens) != 1 {
			t.Errorf("%+v, %v", tokens, err)
		}
	})
}

func TestJoinByLogon(t *testing.T) {
	node.CheapPasswords(t)
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := nodetest.New(t, 1)
		a, b := w.Gateway(1, "a"), w.Gateway(2, "b")
		a.Start()
		b.Start()
		w.WaitReady(15*time.Second, a, b)
		for _, name := range []string{"anna", "bob"} {
			if _, err := a.AddUser(ctx, api.NewUser{Name: name, Password: "korrekt pferd " + name}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.AddUser(ctx, api.NewUser{Name: "anna", Password: "korrekt pferd"}); !refused(err,
			`user "anna" exists`) {
			t.Errorf("twice: %v", err)
		}
		if _, err := a.AddUser(ctx, api.NewUser{Name: "carl", Password: "kurz"}); !refused(err, "cannot be a password") {
			t.Errorf("short: %v", err)
		}
		time.Sleep(time.Second)

		x := w.Gateway(3, "x")
		try := func(at *nodetest.Gateway, user, password string) error {
			knock(x, at, &person{user: user, password: password})
			return x.Ended(time.Minute)
		}
		says := func(err error, part string) bool {
			var hint *node.HintError
			return errors.As(err, &hint) && strings.Contains(err.Error(), part) && hint.Hint != ""
		}
		careful := &person{user: "anna", password: "korrekt pferd anna", distrusts: true}
		knock(x, a, careful)
		if err := x.Ended(time.Minute); !errors.Is(err, errDistrust) || careful.typed != 0 {
			t.Errorf("distrust: %v, %d passwords typed", err, careful.typed)
		}
		if s, err := a.Status(ctx); err != nil || careful.shown != s.ID {
			t.Errorf("shown %s, it is %s", careful.shown, s.ID)
		}

		wrong := "log on at " + a.Addr.String() + ":7946: the name or the password is wrong"
		for range 3 {
			if err := try(a, "anna", "falsch"); !says(err, wrong) {
				t.Errorf("wrong: %v", err)
			}
		}
		if err := try(a, "anna", "korrekt pferd anna"); !says(err, "locked after too many wrong passwords, for another 10 minutes") {
			t.Errorf("locked: %v", err)
		}
		if lines := w.Logged("log-on refused: wrong name or password"); lines != 1 {
			t.Errorf("%d lines are logged", lines)
		}
		y := w.Gateway(4, "y") // what comes from elsewhere locks nobody here
		knock(y, a, &person{user: "anna", password: "falsch"})
		if err := y.Ended(time.Minute); !says(err, wrong) {
			t.Errorf("from elsewhere: %v", err)
		}
		for range 3 { // nobody is treated as somebody is
			if err := try(a, "nobody", "falsch"); !says(err, wrong) {
				t.Errorf("nobody: %v", err)
			}
		}
		if err := try(a, "nobody", "falsch"); !says(err, "locked") {
			t.Errorf("nobody: %v", err)
		}
		if err := try(b, "anna", "falsch"); !says(err, "the name or the password is wrong") {
			t.Errorf("at another gateway: %v", err)
		}

		knock(x, a, &person{user: "bob", password: "korrekt pferd bob"})
		w.WaitReady(15*time.Second, a, b, x)
		tokens, err := b.ListTokens(ctx)
		if err != nil || len(tokens) != 1 || tokens[0].State != api.TokenUsed || tokens[0].Label != "log-on of bob" {
			t.Errorf("%+v, %v", tokens, err)
		}
		records, err := a.ListAudit(ctx, api.AuditQuery{})
		by := ""
		for _, r := range records {
			if r.Action == "add" && strings.HasPrefix(r.Object, "token ") {
				by = r.Actor + " " + r.Source
			}
			for _, c := range r.Changes {
				if strings.Contains(c.After, "argon") {
					t.Errorf("%+v", r)
				}
			}
		}
		if err != nil || by != "bob log-on from "+x.Addr.String() {
			t.Errorf("audit: %q, %v", by, err)
		}
		// Once it is in, the same command starts it as what it is, and asks nobody.
		x.Stop()
		idle := &person{user: "bob"}
		knock(x, a, idle)
		w.WaitReady(15*time.Second, a, b, x)
		if idle.typed != 0 || idle.shown != "" {
			t.Errorf("%+v", idle)
		}

		time.Sleep(10 * time.Minute)
		knock(y, a, &person{user: "anna", password: "korrekt pferd anna"})
		w.WaitReady(15*time.Second, a, b, x, y)
		if err := a.RemoveUser(ctx, "anna"); err != nil {
			t.Error(err)
		}
		if err := a.RemoveUser(ctx, "anna"); !refused(err, "no user is called") {
			t.Errorf("removed twice: %v", err)
		}
	})
}
