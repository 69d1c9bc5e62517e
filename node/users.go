package node

import (
	"context"
	"errors"
	"unicode/utf8"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// A password's length, in bytes.
const (
	minPassword = 10
	maxPassword = 256
)

// ListUsers implements [api.Users].
func (n *Node) ListUsers(context.Context) ([]api.User, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	all, err := n.store.Users()
	out := make([]api.User, 0, len(all))
	for _, u := range all {
		out = append(out, api.User{Name: u.Name, Role: u.Role, Created: u.Created})
	}
	return out, err
}

// AddUser implements [api.Users].
func (n *Node) AddUser(ctx context.Context, u api.NewUser) (api.User, error) {
	v, err := n.newPassword(ctx, u.Password)
	if err != nil {
		return api.User{}, err
	}
	if err := done(n.store.AddUser(once(ctx, 0), u.Name, cluster.RoleAdmin, v)); err != nil {
		return api.User{}, userError(u.Name, err)
	}
	n.log.Info("user added", "user", u.Name)
	added, err := n.store.User(u.Name)
	return api.User{Name: added.Name, Role: added.Role, Created: added.Created}, err
}

// SetPassword implements [api.Users].
func (n *Node) SetPassword(ctx context.Context, name string, p api.Password) error {
	v, err := n.newPassword(ctx, p.Password)
	if err != nil {
		return err
	}
	return userError(name, done(n.store.SetPassword(once(ctx, 0), name, v)))
}

// RemoveUser implements [api.Users].
func (n *Node) RemoveUser(ctx context.Context, name string) error {
	if _, err := n.running(); err != nil {
		return err
	}
	return userError(name, done(n.store.RemoveUser(once(ctx, 0), name)))
}

// newPassword returns what is kept of a password.
func (n *Node) newPassword(ctx context.Context, password string) (string, error) {
	if _, err := n.running(); err != nil {
		return "", err
	}
	if len(password) < minPassword || len(password) > maxPassword || !utf8.ValidString(password) {
		return "", api.Errorf(api.Invalid, "choose one of 10 to 256 bytes; a sentence is a good one", "that cannot be a password")
	}
	return newVerifier(ctx, password)
}

func userError(name string, err error) error {
	var exists *cluster.ExistsError
	switch {
	case errors.Is(err, cluster.ErrNotFound):
		return api.Errorf(api.NotFound, "`gatemesh user list` shows those there are", "no user is called %q", name)
	case errors.As(err, &exists):
		return api.Errorf(api.Exists, "`gatemesh user password NAME` gives it another password", "%v", err)
	}
	return apiError(name, err)
}
