package room

import (
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// checkMember is rule 5.
func (r *rules) checkMember(c *claim, f *facts) error {
	// Rule 5.1. No state_key, or no membership in the content.
	if c.StateKey == nil || property(c.Content, "membership") == nil {
		return refuse("5.1", "a member event needs a state key and a membership")
	}
	// Rule 5.2.1. Not signed by the server of the user that authorised the join.
	// That the signatures are valid was checked on receipt.
	if v := property(c.Content, "join_authorised_via_users_server"); v != nil {
		via, ok := stringOf(v)
		if !ok || len(c.Keys(event.UserID(via).Server())) == 0 {
			return refuse("5.2.1", "the join is not signed by the server of %s", v)
		}
	}
	switch c.membership {
	case "join":
		return r.checkJoin(c, f)
	case "invite":
		return r.checkInvite(c, f)
	case "leave":
		return r.checkLeave(c, f)
	case "ban":
		return r.checkBan(c, f)
	case "knock":
		return r.checkKnock(c, f)
	}
	// Rule 5.8. The membership is unknown.
	return refuse("5.8", "unknown membership %s", property(c.Content, "membership"))
}

// checkJoin is rule 5.3.
func (r *rules) checkJoin(c *claim, f *facts) error {
	sender, target := string(c.Sender), *c.StateKey
	// Rule 5.3.1. The creator joins right behind the create event.
	if len(c.Prev) == 1 && c.Prev[0] == r.create.ID() && target == string(r.create.Sender) {
		return nil
	}
	// Rule 5.3.2. The sender joins somebody else.
	if sender != target {
		return refuse("5.3.2", "%s cannot join for %s", sender, target)
	}
	membership := f.member(c, target)
	// Rule 5.3.3. The sender is banned.
	if membership == "ban" {
		return refuse("5.3.3", "%s is banned from the group", sender)
	}
	switch rule := f.joinRule(c); rule {
	case "invite", "knock":
		// Rule 5.3.4. Invited or joined users may join.
		if membership == "invite" || membership == "join" {
			return nil
		}
		return refuse("5.3.7", "%s is not invited", sender)
	case "restricted", "knock_restricted":
		// Rule 5.3.5.1. Invited or joined users may join.
		if membership == "invite" || membership == "join" {
			return nil
		}
		return r.checkAuthoriser(c, f)
	case "public":
		return nil // rule 5.3.6
	default:
		// Rule 5.3.7. Any other join rule.
		return refuse("5.3.7", "the join rule %q lets nobody in", rule)
	}
}

// checkAuthoriser is rule 5.3.5.2: a joined user who may invite has vouched for
// the join; 5.3.5.3 allows it.
func (r *rules) checkAuthoriser(c *claim, f *facts) error {
	via, _ := stringOf(property(c.Content, "join_authorised_via_users_server"))
	if f.member(c, via) != "join" {
		return refuse("5.3.5.2", "%s is not invited and no member of the group vouches for the join", c.Sender)
	}
	l := r.levels(f.at(c, "m.room.power_levels", ""))
	if need, has := l.Action("invite"), l.User(event.UserID(via)); has < need {
		return refusePower("5.3.5.2", "to let others join", need, event.UserID(via), has)
	}
	return nil
}

// checkInvite is rule 5.4.
func (r *rules) checkInvite(c *claim, f *facts) error {
	target := f.member(c, *c.StateKey)
	// Rule 5.4.1. An invite by e-mail address and the like.
	if invite := property(c.Content, "third_party_invite"); invite != nil {
		return checkThirdParty(c, f, invite, target)
	}
	// Rule 5.4.2. The sender is not joined.
	if f.member(c, string(c.Sender)) != "join" {
		return refuse("5.4.2", "%s is not in the group", c.Sender)
	}
	// Rule 5.4.3. The target is joined or banned.
	if target == "join" {
		return refuse("5.4.3", "%s is in the group already", *c.StateKey)
	}
	if target == "ban" {
		return refuse("5.4.3", "%s is banned from the group", *c.StateKey)
	}
	// Rules 5.4.4 and 5.4.5. The sender has the invite level or not.
	l := r.levels(f.at(c, "m.room.power_levels", ""))
	if need, has := l.Action("invite"), l.User(c.Sender); has < need {
		return refusePower("5.4.5", "to invite", need, c.Sender, has)
	}
	return nil
}

// checkLeave is rule 5.5: leaving, rejecting an invite, kicking and unbanning.
func (r *rules) checkLeave(c *claim, f *facts) error {
	sender, target := string(c.Sender), *c.StateKey
	membership := f.member(c, target)
	// Rule 5.5.1. Whoever is invited, joined or knocking may leave.
	if sender == target {
		if slices.Contains([]string{"invite", "join", "knock"}, membership) {
			return nil
		}
		return refuse("5.5.1", "%s is not in the group", sender)
	}
	// Rule 5.5.2. The sender is not joined.
	if f.member(c, sender) != "join" {
		return refuse("5.5.2", "%s is not in the group", sender)
	}
	l := r.levels(f.at(c, "m.room.power_levels", ""))
	has := l.User(c.Sender)
	// Rule 5.5.3. Lifting a ban takes the ban level.
	if need := l.Action("ban"); membership == "ban" && has < need {
		return refusePower("5.5.3", "to lift a ban", need, c.Sender, has)
	}
	// Rules 5.5.4 and 5.5.5. The sender has the kick level and more power than the target, or not.
	if need := l.Action("kick"); has < need {
		return refusePower("5.5.5", "to remove a member", need, c.Sender, has)
	}
	return refuseEqual("5.5.5", "remove", l, c.Sender, event.UserID(target))
}

// checkBan is rule 5.6.
func (r *rules) checkBan(c *claim, f *facts) error {
	// Rule 5.6.1. The sender is not joined.
	if f.member(c, string(c.Sender)) != "join" {
		return refuse("5.6.1", "%s is not in the group", c.Sender)
	}
	l := r.levels(f.at(c, "m.room.power_levels", ""))
	// Rules 5.6.2 and 5.6.3. The sender has the ban level and more power than the target, or not.
	if need, has := l.Action("ban"), l.User(c.Sender); has < need {
		return refusePower("5.6.3", "to ban", need, c.Sender, has)
	}
	return refuseEqual("5.6.3", "ban", l, c.Sender, event.UserID(*c.StateKey))
}

// refuseEqual refuses to act against a user with as much power as the sender.
func refuseEqual(rule, what string, l Levels, sender, target event.UserID) error {
	has, other := l.User(sender), l.User(target)
	if other >= CreatorPower {
		return refuse(rule, "nobody can %s %s, who is a creator of the group", what, target)
	}
	if has <= other {
		return refuse(rule, "to %s %s a power level above %d is needed, %s has %d",
			what, target, other, sender, has)
	}
	return nil
}

// checkKnock is rule 5.7.
func (r *rules) checkKnock(c *claim, f *facts) error {
	// Rule 5.7.1. The join rule does not let people knock.
	if rule := f.joinRule(c); rule != "knock" && rule != "knock_restricted" {
		return refuse("5.7.1", "the join rule %q does not let people knock", rule)
	}
	// Rule 5.7.2. The sender knocks for somebody else.
	if string(c.Sender) != *c.StateKey {
		return refuse("5.7.2", "%s cannot knock for %s", c.Sender, *c.StateKey)
	}
	// Rules 5.7.3 and 5.7.4. Not for those who are banned, invited or joined.
	switch m := f.member(c, *c.StateKey); m {
	case "ban":
		return refuse("5.7.4", "%s is banned from the group", c.Sender)
	case "invite", "join":
		return refuse("5.7.4", "%s has no need to knock: the membership is %s", c.Sender, m)
	}
	return nil
}
