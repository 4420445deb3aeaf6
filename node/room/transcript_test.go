package room_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

var rewrite = flag.Bool("rewrite", false, "write the outcome of transcripts into testdata")

// Transcripts are stories of rooms that people can read. A line is a command;
// lines that start with > show what came of the command above them; an event
// without one was accepted. Every event goes behind the one before it unless "at"
// says otherwise:
//
//	create LABEL USER [additional=USER,...]
//	join|leave|knock LABEL USER
//	invite|kick|ban|unban LABEL USER TARGET
//	power LABEL USER [users/USER=N] [ban=N] [events/TYPE=N] ...   changes the levels in force; - removes one
//	rules LABEL USER RULE
//	topic|send LABEL USER TEXT
//	at LABEL...                   the next event goes behind these
//	back LABEL                    the room is what it was when this event arrived
//	claim LABEL TYPE[/USER]=OLD   the state after LABEL is said to have an older event at a place; - for none
//	resolve LABEL...              the resolution of the states after these
//	current                       the forward extremities and the current state
//
// An event line may end in time=N; otherwise an event is one second younger than
// the one before. Users are on the server of their first letter.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &story{dag: newDAG(t), soft: map[event.ID]bool{}}
			var out strings.Builder
			for i, line := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
				if strings.HasPrefix(line, ">") {
					continue
				}
				fmt.Fprintln(&out, line)
				words := strings.Fields(line)
				if len(words) == 0 || words[0] == "#" {
					continue
				}
				s.line = fmt.Sprintf("%s:%d: %s", file, i+1, line)
				for _, l := range strings.Split(s.run(words), "\n") {
					if l != "" {
						fmt.Fprintln(&out, ">", l)
					}
				}
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if out.String() != string(raw) {
				t.Errorf("the outcome has changed (-rewrite keeps it):\n%s", out.String())
			}
		})
	}
}

// story is a room while its transcript runs.
type story struct {
	*dag
	line string
	at   []event.ID
	time int64
	soft map[event.ID]bool // soft-failed
}

func person(name string) event.UserID { return event.UserID("@" + name + ":" + name[:1]) }

func (s *story) fail(format string, args ...any) {
	s.tb.Helper()
	s.tb.Fatalf("%s: %s", s.line, fmt.Sprintf(format, args...))
}

func (s *story) ids(labels []string) []event.ID {
	var ids []event.ID
	for _, l := range labels {
		if _, ok := s.events[labelID(l)]; !ok {
			s.fail("no event %s", l)
		}
		ids = append(ids, labelID(l))
	}
	return ids
}

func (s *story) run(words []string) string {
	switch args := words[1:]; words[0] {
	case "at":
		s.at = s.ids(args)
		return ""
	case "back":
		s.at = s.ids(args)
		for s.order[len(s.order)-1] != s.at[0] {
			last := s.order[len(s.order)-1]
			delete(s.events, last)
			s.order = s.order[:len(s.order)-1]
		}
		s.time = s.events[s.at[0]].Time / 1000
		return ""
	case "claim":
		s.claim(args[0], args[1])
		return ""
	case "resolve":
		return s.resolve(s.ids(args))
	case "current":
		x := s.extremities()
		var names []string
		for _, id := range x {
			names = append(names, label(id))
		}
		return "forward extremities: " + strings.Join(names, " ") + "\n" + s.resolve(x)
	}
	return s.event(words)
}

// event judges the event of a line and keeps it.
func (s *story) event(words []string) string {
	command, name, sender := words[0], words[1], person(words[2])
	args := words[3:]
	s.time++
	if n := len(args); n > 0 && strings.HasPrefix(args[n-1], "time=") {
		s.time, _ = strconv.ParseInt(strings.TrimPrefix(args[n-1], "time="), 10, 64)
		args = args[:n-1]
	}
	b := event.Body{Sender: sender, Prev: s.at, Time: s.time * 1000, Type: "m.room.member"}
	member := func(target event.UserID, membership string) {
		b.StateKey, b.Content = key(string(target)), content(map[string]any{"membership": membership})
	}
	text := strings.Join(args, " ")
	switch command {
	case "create":
		c := map[string]any{"room_version": "12"}
		if more, ok := strings.CutPrefix(text, "additional="); ok {
			var users []event.UserID
			for _, u := range strings.Split(more, ",") {
				users = append(users, person(u))
			}
			c["additional_creators"] = users
		}
		b.Type, b.StateKey, b.Content = "m.room.create", key(""), content(c)
	case "join", "leave", "knock":
		member(sender, command)
	case "invite", "ban":
		member(person(args[0]), command)
	case "kick", "unban":
		member(person(args[0]), "leave")
	case "power":
		b.Type, b.StateKey, b.Content = "m.room.power_levels", key(""), s.levels(args)
	case "rules":
		b.Type, b.StateKey, b.Content = "m.room.join_rules", key(""), content(map[string]any{"join_rule": text})
	case "topic":
		b.Type, b.StateKey, b.Content = "m.room.topic", key(""), content(map[string]any{"topic": text})
	case "send":
		b.Type, b.Content = "m.room.message", content(map[string]any{"body": text})
	default:
		s.fail("no such command")
	}
	var current room.State
	if command != "create" {
		b.Room = s.create.ID().Room()
		b.Auth = auth(s.before(s.at), b)
		current = s.state(s.before(s.extremities()))
	}
	e := made(s.tb, labelID(name), b)
	v, err := s.add(e, current)
	s.soft[e.ID()] = v == room.SoftFailed
	if v != room.Rejected {
		s.at = []event.ID{e.ID()}
	}
	if err != nil {
		return []string{"accepted", "soft-failed", "rejected"}[v] + ": " + err.Error()
	}
	return ""
}

func (s *story) levels(changes []string) json.RawMessage {
	c := map[string]any{}
	if id, ok := s.before(s.at)[room.Key{Type: "m.room.power_levels"}]; ok {
		if err := json.Unmarshal(s.events[id].Content, &c); err != nil {
			s.fail("%v", err)
		}
	}
	for _, change := range changes {
		name, value, _ := strings.Cut(change, "=")
		object := c
		if outer, inner, ok := strings.Cut(name, "/"); ok {
			if c[outer] == nil {
				c[outer] = map[string]any{}
			}
			object, name = c[outer].(map[string]any), inner
			if outer == "users" {
				name = string(person(inner))
			}
		}
		if n, err := strconv.Atoi(value); err == nil {
			object[name] = n
		} else {
			delete(object, name)
		}
	}
	return content(c)
}

func (s *story) claim(name, what string) {
	where, old, _ := strings.Cut(what, "=")
	k := room.Key{Type: where}
	if typ, user, ok := strings.Cut(where, "/"); ok {
		k = room.Key{Type: typ, StateKey: string(person(user))}
	}
	at := s.ids([]string{name})[0]
	state := maps.Clone(s.after[at])
	delete(state, k)
	if old != "-" {
		state[k] = s.ids([]string{old})[0]
	}
	s.after[at] = state
}

// resolve shows the resolution of the states after events. It must be the same
// for any order of them, and what the specification literally says.
func (s *story) resolve(ids []event.ID) string {
	var forks []room.Snapshot
	for _, id := range ids {
		forks = append(forks, s.after[id])
	}
	want := newLiteral(s.dag).resolve(forks)
	for range forks {
		forks = append(forks[1:], forks[0])
		got, err := room.Resolve(s.create, forks, s.get)
		if err != nil {
			s.fail("%v", err)
		}
		if !maps.Equal(got, want) {
			s.fail("resolved\n%s\n\nthe specification wants\n%s", text(got), text(want))
		}
	}
	var lines []string
	for k, id := range want {
		e := s.events[id]
		place, what := k.Type, ""
		switch k.Type {
		case "m.room.create":
			continue
		case "m.room.member":
			place += " " + k.StateKey
			what = e.Field("membership")
		case "m.room.topic":
			what = e.Field("topic")
		case "m.room.join_rules":
			what = e.Field("join_rule")
		case "m.room.power_levels":
			what = string(e.Content)
		}
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-24s %-14s %s", strings.TrimPrefix(place, "m.room."), label(id), what), " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// extremities are the accepted events without accepted events behind them, as if
// soft-failed ones did not exist.
func (s *story) extremities() []event.ID {
	hidden := map[event.ID]bool{}
	var x []event.ID
	for _, id := range slices.Backward(s.order) {
		counts := !s.rejected[id] && !s.soft[id]
		if counts && !hidden[id] {
			x = append(x, id)
		}
		if counts || hidden[id] {
			for _, p := range s.events[id].Prev {
				hidden[p] = true
			}
		}
	}
	slices.Sort(x)
	return x
}
