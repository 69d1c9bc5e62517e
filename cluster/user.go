package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	kindUser      = "user" // its id is the name
	fieldRole     = "role"
	fieldPassword = "password"

	maxVerifier = 255 // bytes
)

// RoleAdmin is the role of a user who may do everything.
const RoleAdmin = "admin"

// User is an administrator.
type User struct {
	Name     string
	Role     string
	Verifier string // says whether a password is the user's, in the caller's words; at most 255 bytes
	Created  time.Time
	// Suspended says that an evicted gateway, or one whose admission does not stand, made the user, or set its role or
	// password, unknown to the others: it is none until a member gives it a password.
	Suspended bool
	// Stale says that who gave the password did not know of all evictions: an evicted gateway may know what says whether
	// it is right.
	Stale bool
}

func userRef(name string) ref { return refOf(kindUser, []byte(name)) }

// AddUser makes a user. It returns an *ExistsError with the field "user", or a *NameError.
func (s *Store) AddUser(ctx context.Context, name, role, verifier string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := cmp.Or(checkLength("role", len(role), maxNote), checkLength("password", len(verifier), maxVerifier)); err != nil {
		return err
	}
	created := formatTime(s.clock.now())
	return s.update(ctx, func(t *tx) error {
		r := userRef(name)
		e, err := t.entity(r)
		if err != nil {
			return err
		}
		if e.alive() {
			return &ExistsError{Field: "user", Value: name, ID: name}
		}
		if err := t.write(r, cell{life: newLife(e.life(), t.time)}); err != nil {
			return err
		}
		password, err := t.passwordValue(verifier)
		if err != nil {
			return err
		}
		return cmp.Or(
			t.put(r, fieldCreated, []byte(created)),
			t.put(r, fieldRole, []byte(role)),
			t.put(r, fieldPassword, password),
		)
	})
}

// SetPassword gives a user another verifier. It returns an error that wraps ErrNotFound.
func (s *Store) SetPassword(ctx context.Context, name, verifier string) error {
	if err := checkLength("password", len(verifier), maxVerifier); err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error {
		if _, err := t.aliveUser(name); err != nil {
			return err
		}
		if err := t.confirm(userRef(name), fieldRole); err != nil {
			return err
		}
		password, err := t.passwordValue(verifier)
		if err != nil {
			return err
		}
		return t.put(userRef(name), fieldPassword, password)
	})
}

// confirm writes a field again, as it is, if it is void.
func (t *tx) confirm(r ref, field string) error {
	v, err := readVerdicts(t)
	if err != nil {
		return err
	}
	e, err := t.entity(r)
	if err != nil {
		return err
	}
	if void, err := v.void(t, e.get(field)); err != nil || !void {
		return err
	}
	return t.put(r, field, e.value(field))
}

// RemoveUser deletes a user. It returns an error that wraps ErrNotFound.
func (s *Store) RemoveUser(ctx context.Context, name string) error {
	return s.update(ctx, func(t *tx) error {
		e, err := t.aliveUser(name)
		if err != nil {
			return err
		}
		return t.write(userRef(name), cell{life: e.life() + 1})
	})
}

func (t *tx) aliveUser(name string) (*entity, error) {
	if len(name) > maxID {
		return nil, fmt.Errorf("user: %w", ErrNotFound)
	}
	e, err := t.entity(userRef(name))
	if err == nil && !e.alive() {
		err = fmt.Errorf("user %q: %w", name, ErrNotFound)
	}
	return e, err
}

// User returns a user, or an error that wraps ErrNotFound.
func (s *Store) User(name string) (u User, err error) {
	if len(name) > maxID {
		return u, fmt.Errorf("user: %w", ErrNotFound)
	}
	err = s.judge(func(txn *badger.Txn, v *verdicts) error {
		e, err := readEntity(snapshot{txn}, userRef(name))
		if err == nil && !e.alive() {
			err = fmt.Errorf("user %q: %w", name, ErrNotFound)
		}
		if err == nil {
			u, err = v.user(snapshot{txn}, name, e)
		}
		return err
	})
	return u, err
}

// Users returns all users, by name.
func (s *Store) Users() (all []User, err error) {
	err = s.judge(func(txn *badger.Txn, v *verdicts) error {
		return eachOf(txn, kindUser, func(id []byte, e *entity) error {
			if !e.alive() {
				return nil
			}
			u, err := v.user(snapshot{txn}, string(id), e)
			all = append(all, u)
			return err
		})
	})
	slices.SortFunc(all, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

func (v *verdicts) user(s source, name string, e *entity) (User, error) {
	u := User{
		Name: name, Role: string(e.value(fieldRole)), Verifier: string(e.value(fieldPassword)),
		Created: parseTime(string(e.value(fieldCreated))),
	}
	for _, field := range []string{fieldRole, fieldPassword} {
		void, err := v.void(s, e.get(field))
		if err != nil {
			return u, err
		}
		u.Suspended = u.Suspended || void
	}
	var sum string
	u.Verifier, sum, _ = strings.Cut(u.Verifier, sumMark)
	u.Stale = e.get(fieldPassword) != nil && !u.Suspended && sum != string(v.sum())
	return u, nil
}

// sumMark is in the value of a password between the verifier and what names the evictions that its giver knew. Where
// there were none, neither is there.
const sumMark = "\x00"

// passwordValue is the value of a password given now.
func (t *tx) passwordValue(verifier string) ([]byte, error) {
	v, err := readVerdicts(t)
	if sum := v.sum(); sum != nil {
		verifier += sumMark + string(sum)
	}
	return []byte(verifier), err
}
