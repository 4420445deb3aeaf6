package room

import (
	"bytes"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// checkPowerLevels is rule 10. now are the levels in force.
func (r *rules) checkPowerLevels(c *claim, f *facts, now Levels) error {
	if err := r.checkPowerShape(c.Content); err != nil {
		return err
	}
	// Rule 10.5. There are no power levels yet.
	if f.at(c, "m.room.power_levels", "") == nil {
		return nil
	}
	next := r.levels(c.Event).p
	has := now.User(c.Sender)
	limit := func(rule, what string, level int64) error {
		return refuse(rule, "a power level of at least %d is needed to change %s, %s has %d",
			level, what, c.Sender, has)
	}
	// Rule 10.6. Levels at the top, added, changed or removed.
	err := changes(now.p.actions, next.actions, func(key string, was, is *int64) error {
		if was != nil && *was > has {
			return limit("10.6.1", key, *was)
		}
		if is != nil && *is > has {
			return limit("10.6.2", key, *is)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range []struct {
		name    string
		was, is []entry
	}{{"events", now.p.events, next.events}, {"notifications", now.p.notifications, next.notifications}} {
		err := changes(m.was, m.is, func(key string, was, is *int64) error {
			// Rule 10.7.1. Changed or removed: the current value is above the sender's level.
			if was != nil && *was > has {
				return limit("10.7.1", m.name+"."+key, *was)
			}
			// Rule 10.8.1. Added or changed: the new value is above the sender's level.
			if is != nil && *is > has {
				return limit("10.8.1", m.name+"."+key, *is)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return changes(now.p.users, next.users, func(key string, was, is *int64) error {
		// Rule 10.9.1. Somebody else's entry changed or removed: the current value is not below the sender's level.
		if was != nil && key != string(c.Sender) && *was >= has {
			return refuse("10.9.1", "to change the power level of %s one above %d is needed, %s has %d",
				key, *was, c.Sender, has)
		}
		// Rule 10.10.1. Added or changed: the new value is above the sender's level.
		if is != nil && *is > has {
			return limit("10.10.1", "the power level of "+key+" to that", *is)
		}
		return nil
	}) // rule 10.11
}

// checkPowerShape is rules 10.1 to 10.4.
func (r *rules) checkPowerShape(content []byte) (err error) {
	scanObject(content, func(key, value []byte) bool {
		name := string(key)
		switch name {
		case "events", "notifications":
			// Rule 10.2. No object of integers.
			if !integers(value) {
				err = refuse("10.2", "%s is not an object of integers", name)
			}
		case "users":
			err = r.checkPowerUsers(value)
		default:
			for _, a := range actions {
				// Rule 10.1. No integer.
				if _, ok := integerOf(value); a.name == name && !ok {
					err = refuse("10.1", "%s is not an integer", name)
				}
			}
		}
		return err == nil
	})
	return err
}

// checkPowerUsers is rules 10.3 and 10.4.
func (r *rules) checkPowerUsers(users []byte) (err error) {
	// Rule 10.3. No object of integers by user id.
	if !integers(users) {
		return refuse("10.3", "users is not an object of integers")
	}
	scanObject(users, func(key, _ []byte) bool {
		u := event.UserID(bytes.Clone(key))
		if !validUser(string(u)) {
			err = refuse("10.3", "users names %q, which is no user id", u)
		} else if slices.Contains(r.creators, u) {
			// Rule 10.4. A creator has an entry.
			err = refuse("10.4", "users names %s, whose power as a creator cannot be changed", u)
		}
		return err == nil
	})
	return err
}

// integers reports whether object is an object of integers.
func integers(object []byte) bool {
	ok := true
	isObject := scanObject(object, func(_, value []byte) bool {
		_, ok = integerOf(value)
		return ok
	})
	return isObject && ok
}

// changes calls fn for each key whose level differs, in the order of keys; was
// and is are nil where there is none.
func changes(before, after []entry, fn func(key string, was, is *int64) error) error {
	for i, j := 0, 0; i < len(before) || j < len(after); {
		var key []byte
		var was, is *int64
		order := 0
		switch {
		case i == len(before):
			order = 1
		case j == len(after):
			order = -1
		default:
			order = bytes.Compare(before[i].key, after[j].key)
		}
		if order <= 0 {
			key, was = before[i].key, &before[i].level
			i++
		}
		if order >= 0 {
			key, is = after[j].key, &after[j].level
			j++
		}
		if was != nil && is != nil && *was == *is {
			continue
		}
		if err := fn(string(key), was, is); err != nil {
			return err
		}
	}
	return nil
}
