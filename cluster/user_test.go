package cluster

import (
	"errors"
	"strings"
	"testing"
)

func TestUsers(t *testing.T) {
	a, b := replica(t, 0), replica(t, 1)
	root := by("root")
	check(t, a.AddUser(root, "anna", RoleAdmin, "verifier 1"))
	var exists *ExistsError
	if err := a.AddUser(root, "anna", RoleAdmin, "verifier 2"); !errors.As(err, &exists) || !strings.Contains(err.Error(), `user "anna"`) {
		t.Errorf("twice: %v", err)
	}
	var name *NameError
	if err := a.AddUser(root, "no name", RoleAdmin, "v"); !errors.As(err, &name) {
		t.Errorf("no name: %v", err)
	}
	if err := a.AddUser(root, "bob", RoleAdmin, strings.Repeat("v", 256)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a long verifier: %v", err)
	}
	for _, err := range []error{a.SetPassword(root, "bob", "v"), a.RemoveUser(root, "bob"), a.RemoveUser(root, strings.Repeat("b", 500))} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("nobody: %v", err)
		}
	}
	check(t, a.SetPassword(root, "anna", "verifier 2"))
	converge(t, a, b)
	u, err := b.User("anna")
	if err != nil || u.Role != RoleAdmin || u.Verifier != "verifier 2" || u.Created.IsZero() {
		t.Errorf("%+v, %v", u, err)
	}
	if got := story(records(t, b)); strings.Contains(got, "verifier") || !strings.Contains(got, "security root add: user anna;") {
		t.Error(got)
	}

	// A removal ends the user, whatever is written elsewhere meanwhile; a new user of the name has nothing of the old.
	check(t, a.RemoveUser(root, "anna"))
	check(t, b.SetPassword(root, "anna", "verifier 3"))
	converge(t, a, b)
	if _, err := b.User("anna"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	check(t, b.AddUser(root, "anna", RoleAdmin, "verifier 4"))
	converge(t, a, b)
	if all, err := a.Users(); err != nil || len(all) != 1 || all[0].Verifier != "verifier 4" {
		t.Errorf("%+v, %v", all, err)
	}
	same(t, a, b)
}

// Two passwords given on two sides of a split are a conflict; neither is told.
func TestPasswordConflict(t *testing.T) {
	a, b := replica(t, 0), replica(t, 1)
	root := by("root")
	check(t, a.AddUser(root, "anna", RoleAdmin, "verifier 1"))
	converge(t, a, b)
	check(t, a.SetPassword(root, "anna", "verifier 2"))
	check(t, b.SetPassword(root, "anna", "verifier 3"))
	converge(t, a, b)
	all, err := a.Conflicts()
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	c := all[0]
	if c.Ref != (Ref{"user", "anna"}) || c.Field != "password" || !c.Stands.Secret || !c.Other.Secret || c.Stands.Text+c.Other.Text != "" {
		t.Errorf("%+v", c)
	}
	_, err = a.ResolveConflict(root, c.ID, true)
	check(t, err)
	converge(t, a, b)
	x, _ := a.User("anna")
	y, _ := b.User("anna")
	if all, _ := b.Conflicts(); len(all) != 0 || x != y {
		t.Errorf("%+v, %+v, %+v", all, x, y)
	}
}
