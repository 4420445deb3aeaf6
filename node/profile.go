package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sync/errgroup"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// profileEvents is how many member events of a changed profile are committed at
// once: they share disk syncs.
const profileEvents = 16

// SetProfile changes a field of a local user's profile and the member events of
// the rooms the user is joined to. value nil removes the field. Rooms whose rules
// refuse the new member event keep the old one.
func (n *Node) SetProfile(ctx context.Context, user event.UserID, field string, value json.RawMessage) error {
	changed := false
	err := n.store.Update(ctx, func(tx *store.Tx) error {
		u, err := tx.User(user)
		if err != nil {
			return err
		}
		if changed = !bytes.Equal(u.Profile[field], value); !changed {
			return nil
		}
		fresh := *u
		fresh.Profile = maps.Clone(u.Profile)
		if fresh.Profile == nil {
			fresh.Profile = map[string]json.RawMessage{}
		}
		if value == nil {
			delete(fresh.Profile, field)
		} else {
			fresh.Profile[field] = value
		}
		return tx.PutUser(&fresh)
	})
	if err != nil || !changed || field != "displayname" && field != "avatar_url" {
		return err
	}
	rooms, err := n.JoinedRooms(ctx, user)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(profileEvents)
	for _, r := range rooms {
		g.Go(func() error {
			err := n.renewMember(gctx, user, r)
			if errors.Is(err, store.ErrClosed) || errors.Is(err, store.ErrDiskFull) || gctx.Err() != nil {
				return err
			}
			if err != nil {
				n.log.Info("a member event does not show the new profile", "room", r, "error", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// renewMember sends a new member event with the current profile if it differs.
func (n *Node) renewMember(ctx context.Context, user event.UserID, r event.RoomID) error {
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		old, err := currentMember(tx, r, user)
		if err != nil || old.Membership() != join {
			return err
		}
		var extra map[string]json.RawMessage
		if err := json.Unmarshal(old.Content, &extra); err != nil {
			return err
		}
		for _, field := range []string{"displayname", "avatar_url", "reason"} {
			delete(extra, field)
		}
		content, err := n.memberContent(tx, user, join, extra, "")
		if err != nil {
			return err
		}
		if content, err = event.Canonical(content); err != nil || bytes.Equal(content, old.Content) {
			return err
		}
		return n.sendMember(tx, fx, r, user, user, content)
	})
}

// Profile returns the profile of a user of any server. store.ErrNotFound if there
// is no such user, ErrNoRoute if the user's server does not answer.
func (n *Node) Profile(ctx context.Context, user event.UserID) (map[string]json.RawMessage, error) {
	if _, err := event.ParseUserID(string(user)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if user.Server() == n.Server() {
		return n.localProfile(user)
	}
	a, err := ask[profileAnswer](ctx, n, user.Server(), CallProfile, profileRequest{User: user})
	switch {
	case isCode(err, codeNotFound):
		return nil, fmt.Errorf("profile of %s: %w", user, store.ErrNotFound)
	case isRefusal(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoRoute, err)
	}
	if a.Profile == nil {
		a.Profile = map[string]json.RawMessage{}
	}
	return a.Profile, nil
}

// localProfile returns the profile of a user of this server; never nil.
func (n *Node) localProfile(user event.UserID) (map[string]json.RawMessage, error) {
	profile := map[string]json.RawMessage{}
	err := n.store.View(func(tx *store.Tx) error {
		u, err := tx.User(user)
		if err == nil && u.Deactivated {
			err = store.ErrNotFound
		}
		if err == nil {
			maps.Copy(profile, u.Profile)
		}
		return err
	})
	return profile, err
}

// handleProfile answers for a user of this server.
func (n *Node) handleProfile(_ context.Context, _ event.Server, body []byte) (any, error) {
	req, err := decode[profileRequest](body)
	if err != nil {
		return nil, err
	}
	if req.User.Server() != n.Server() {
		return nil, refuse(codeNotFound, "not a user of this server")
	}
	profile, err := n.localProfile(req.User)
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(codeNotFound, "no such user")
	} else if err != nil {
		return nil, err
	}
	return profileAnswer{Profile: profile}, nil
}
