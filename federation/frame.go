package federation

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxFrame bounds one pubsub RPC; the hello packet carries every subscription
// and is not split.
const maxFrame = 4 << 20

// The fields of a pubsub RPC and of the messages inside it that the guard reads.
const (
	rpcSubscription protowire.Number = 1
	rpcMessage      protowire.Number = 2
	rpcControl      protowire.Number = 3

	subSubscribe protowire.Number = 1
	subTopic     protowire.Number = 2

	messageTopic protowire.Number = 4

	controlIHave     protowire.Number = 1
	controlIWant     protowire.Number = 2
	controlGraft     protowire.Number = 3
	controlPrune     protowire.Number = 4
	controlIDontWant protowire.Number = 5

	topicOfControl protowire.Number = 1 // IHAVE, GRAFT, PRUNE
	idsOfHave      protowire.Number = 2 // IHAVE
	idsOfWant      protowire.Number = 1 // IWANT, IDONTWANT
	pruneBackoff   protowire.Number = 3
)

// part is a piece of a frame that names a topic or message ids.
type part int

const (
	partMessage part = iota
	partIHave
	partGraft
	partPrune
)

// frameRules decide about the pieces of a pubsub frame.
type frameRules interface {
	// subscription takes note of a SUBSCRIBE or UNSUBSCRIBE and says whether it may pass.
	subscription(topic string, subscribe bool) bool
	// topic says whether a piece of this kind about the topic may pass.
	topic(p part, topic string) bool
	// id says whether a message id may pass in an IWANT or an IDONTWANT.
	id(field protowire.Number, id string) bool
	// offer says whether a message id may pass in an IHAVE about the topic.
	offer(topic, id string) bool
}

// filterFrame returns the parts of a pubsub RPC that the rules let pass: frame
// itself if all do, nil if none does. What it does not know does not pass.
// Errors wrap errFrame.
func filterFrame(frame []byte, rules frameRules) ([]byte, error) {
	out, err := filterFields(frame, func(f protowire.Number, value []byte) ([]byte, error) {
		switch f {
		case rpcSubscription:
			return filterSubscription(value, rules)
		case rpcMessage:
			return filterTopic(value, messageTopic, partMessage, rules)
		case rpcControl:
			return filterControl(value, rules)
		}
		return nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return out, nil
}

func filterControl(control []byte, rules frameRules) ([]byte, error) {
	return filterFields(control, func(f protowire.Number, value []byte) ([]byte, error) {
		switch f {
		case controlIHave:
			return filterIHave(value, rules)
		case controlGraft:
			return filterTopic(value, topicOfControl, partGraft, rules)
		case controlPrune:
			return filterTopic(value, topicOfControl, partPrune, rules)
		case controlIWant, controlIDontWant:
			return filterFields(value, func(g protowire.Number, id []byte) ([]byte, error) {
				if g == idsOfWant && rules.id(f, string(id)) {
					return id, nil
				}
				return nil, nil
			})
		}
		return nil, nil
	})
}

// filterFields asks pass for every length-delimited field of a message. pass
// returns what is to stand in the field's place, nil to leave it out; it returns
// its argument to keep the field. Fields of other wire types are left out. The
// message itself comes back, without a copy, if nothing changed.
func filterFields(msg []byte, pass func(protowire.Number, []byte) ([]byte, error)) ([]byte, error) {
	var out []byte
	changed := false
	for rest := msg; len(rest) > 0; {
		f, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(f, typ, rest[n:])
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		field := rest[:n+size]
		var value, kept []byte
		if typ == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(rest[n:])
			var err error
			if kept, err = pass(f, value); err != nil {
				return nil, err
			}
		}
		same := kept != nil && len(kept) == len(value)
		if !same && !changed { // the first difference: copy what stands before it
			changed = true
			out = append(out, msg[:len(msg)-len(rest)]...)
		}
		switch {
		case changed && same:
			out = append(out, field...)
		case changed && kept != nil:
			out = appendBytes(out, f, kept)
		}
		rest = rest[n+size:]
	}
	if !changed {
		return msg, nil
	}
	return out, nil
}

// filterTopic keeps a piece whose only topic may pass.
func filterTopic(value []byte, field protowire.Number, p part, rules frameRules) ([]byte, error) {
	topic, err := oneString(value, field)
	if err != nil || !rules.topic(p, topic) {
		return nil, err
	}
	return value, nil
}

// filterIHave keeps of an IHAVE whose topic may pass the ids that may pass.
func filterIHave(value []byte, rules frameRules) ([]byte, error) {
	topic, err := oneString(value, topicOfControl)
	if err != nil || !rules.topic(partIHave, topic) {
		return nil, err
	}
	left := 0
	out, err := filterFields(value, func(f protowire.Number, b []byte) ([]byte, error) {
		switch {
		case f == topicOfControl:
			return b, nil
		case f == idsOfHave && rules.offer(topic, string(b)):
			left++
			return b, nil
		}
		return nil, nil
	})
	if left == 0 {
		return nil, err
	}
	return out, err
}

func filterSubscription(value []byte, rules frameRules) ([]byte, error) {
	topic, err := oneString(value, subTopic)
	if err != nil {
		return nil, err
	}
	subscribe := false
	for rest := value; len(rest) > 0; {
		f, typ, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if f == subSubscribe && typ == protowire.VarintType {
			_, _, t := protowire.ConsumeTag(rest)
			v, _ := protowire.ConsumeVarint(rest[t:])
			subscribe = v != 0
		}
		rest = rest[n:]
	}
	if !rules.subscription(topic, subscribe) {
		return nil, nil
	}
	return value, nil
}

// oneString returns the string field of a message. A second one is an error:
// the reader behind the guard would see the last one.
func oneString(msg []byte, field protowire.Number) (string, error) {
	var found []byte
	seen := false
	for rest := msg; len(rest) > 0; {
		f, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(f, typ, rest[n:])
		if size < 0 {
			return "", protowire.ParseError(size)
		}
		if f == field {
			if typ != protowire.BytesType || seen {
				return "", fmt.Errorf("field %d is no string or stands twice", field)
			}
			seen = true
			found, _ = protowire.ConsumeBytes(rest[n:])
		}
		rest = rest[n+size:]
	}
	return string(found), nil
}

// appendSubscription appends a SUBSCRIBE or UNSUBSCRIBE to an RPC.
func appendSubscription(rpc []byte, topic string, subscribe bool) []byte {
	var v uint64
	if subscribe {
		v = 1
	}
	sub := protowire.AppendVarint(protowire.AppendTag(nil, subSubscribe, protowire.VarintType), v)
	return appendBytes(rpc, rpcSubscription, appendBytes(sub, subTopic, []byte(topic)))
}

// appendPrune appends a PRUNE with the back-off in seconds to an RPC.
func appendPrune(rpc []byte, topic string, backoff uint64) []byte {
	prune := appendBytes(nil, topicOfControl, []byte(topic))
	prune = protowire.AppendVarint(protowire.AppendTag(prune, pruneBackoff, protowire.VarintType), backoff)
	return appendBytes(rpc, rpcControl, appendBytes(nil, controlPrune, prune))
}

// appendGraft appends a GRAFT to an RPC.
func appendGraft(rpc []byte, topic string) []byte {
	graft := appendBytes(nil, topicOfControl, []byte(topic))
	return appendBytes(rpc, rpcControl, appendBytes(nil, controlGraft, graft))
}
