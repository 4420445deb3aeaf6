package store

import (
	"encoding/json"

	"github.com/tokenim/tokenim/node/event"
)

// User is a local account.
type User struct {
	ID           event.UserID
	PasswordHash string                     `json:",omitempty"`
	Role         string                     // "owner", "administrator" or "user"
	Deactivated  bool                       `json:",omitempty"`
	Created      int64                      // milliseconds
	Profile      map[string]json.RawMessage `json:",omitempty"` // displayname, avatar_url, ...
}

// Device is a session of a user.
type Device struct {
	User        event.UserID
	ID          string
	DisplayName string   `json:",omitempty"`
	Token       [32]byte // SHA-256 of the access token
	Created     int64    // milliseconds
	LastSeen    int64    // milliseconds
	LastIP      string   `json:",omitempty"`
}

// RegistrationToken lets people register.
type RegistrationToken struct {
	Token     string
	Uses      int   // left; -1 unlimited
	Expires   int64 // milliseconds, 0 never
	Owner     bool  // who registers with it becomes owner and administrator
	Completed int
}

// Receipt is a read receipt of a user in a room.
type Receipt struct {
	Room     event.RoomID
	Type     string // m.read, m.read.private
	User     event.UserID
	Thread   string // thread_id, empty for unthreaded
	Event    event.ID
	Time     int64
	Position Position
}

// AccountData is one entry of a user's account data.
type AccountData struct {
	Room     event.RoomID // empty for global
	Type     string
	Content  json.RawMessage
	Position Position
}

// User returns an account, or ErrNotFound.
func (tx *Tx) User(id event.UserID) (*User, error) { panic("stub") }

// PutUser writes an account.
func (tx *Tx) PutUser(u *User) error { panic("stub") }

// Users returns accounts in the order of their ids, after one, at most limit.
func (tx *Tx) Users(after event.UserID, limit int) ([]*User, error) { panic("stub") }

// CountUsers returns the number of accounts that are not deactivated.
func (tx *Tx) CountUsers() (int, error) { panic("stub") }

// Device returns a device, or ErrNotFound.
func (tx *Tx) Device(u event.UserID, id string) (*Device, error) { panic("stub") }

// DeviceByToken finds the device of an access token by its SHA-256, or ErrNotFound.
func (tx *Tx) DeviceByToken(hash [32]byte) (*Device, error) { panic("stub") }

// PutDevice writes a device and its token index (an older token of it dies).
func (tx *Tx) PutDevice(d *Device) error { panic("stub") }

// DeleteDevice removes a device, its token and its transaction ids.
func (tx *Tx) DeleteDevice(u event.UserID, id string) error { panic("stub") }

// Devices returns the devices of a user.
func (tx *Tx) Devices(u event.UserID) ([]*Device, error) { panic("stub") }

// RegistrationToken returns a token, or ErrNotFound.
func (tx *Tx) RegistrationToken(token string) (*RegistrationToken, error) { panic("stub") }

// RegistrationTokens returns all tokens.
func (tx *Tx) RegistrationTokens() ([]*RegistrationToken, error) { panic("stub") }

// PutRegistrationToken writes a token.
func (tx *Tx) PutRegistrationToken(t *RegistrationToken) error { panic("stub") }

// DeleteRegistrationToken removes a token.
func (tx *Tx) DeleteRegistrationToken(token string) error { panic("stub") }

// AccountData returns an entry, or ErrNotFound. room is empty for global data.
func (tx *Tx) AccountData(u event.UserID, r event.RoomID, typ string) (*AccountData, error) {
	panic("stub")
}

// PutAccountData writes an entry with a new position.
func (tx *Tx) PutAccountData(u event.UserID, d AccountData) error { panic("stub") }

// AllAccountData returns the entries of a user with a position after, in the
// order of room and type.
func (tx *Tx) AllAccountData(u event.UserID, after Position) ([]AccountData, error) { panic("stub") }

// Filter returns a stored filter, or ErrNotFound.
func (tx *Tx) Filter(u event.UserID, id string) (json.RawMessage, error) { panic("stub") }

// PutFilter stores a filter and returns its id; equal filters share one.
func (tx *Tx) PutFilter(u event.UserID, f json.RawMessage) (string, error) { panic("stub") }

// Txn returns the event that a device sent under a transaction id, or ErrNotFound.
// scope separates endpoints ("send", "redact").
func (tx *Tx) Txn(u event.UserID, device, scope, txn string) (event.ID, error) { panic("stub") }

// PutTxn remembers a transaction id.
func (tx *Tx) PutTxn(u event.UserID, device, scope, txn string, id event.ID) error { panic("stub") }

// TxnOf returns the transaction id under which this device sent the event, or "".
func (tx *Tx) TxnOf(u event.UserID, device string, id event.ID) (string, error) { panic("stub") }

// PutReceipt writes a receipt with a new position, replacing the user's earlier
// one of the same type and thread.
func (tx *Tx) PutReceipt(r Receipt) error { panic("stub") }

// Receipts returns the receipts of a room with a position after.
func (tx *Tx) Receipts(r event.RoomID, after Position) ([]Receipt, error) { panic("stub") }

// Alias returns the room of a local alias and who made it, or ErrNotFound.
func (tx *Tx) Alias(alias string) (event.RoomID, event.UserID, error) { panic("stub") }

// PutAlias writes a local alias.
func (tx *Tx) PutAlias(alias string, r event.RoomID, by event.UserID) error { panic("stub") }

// DeleteAlias removes a local alias.
func (tx *Tx) DeleteAlias(alias string) error { panic("stub") }

// Aliases returns the local aliases of a room.
func (tx *Tx) Aliases(r event.RoomID) ([]string, error) { panic("stub") }

// SetPublished puts a room in the public room directory or takes it out.
func (tx *Tx) SetPublished(r event.RoomID, on bool) error { panic("stub") }

// Published returns the rooms of the public room directory.
func (tx *Tx) Published() ([]event.RoomID, error) { panic("stub") }

// Cursor returns a reader's saved position, 0 if none.
func (tx *Tx) Cursor(name string) (Position, error) { panic("stub") }

// SetCursor saves a reader's position.
func (tx *Tx) SetCursor(name string, p Position) error { panic("stub") }

// ServerRecord returns the newest signed record of a server as it was received,
// or ErrNotFound.
func (tx *Tx) ServerRecord(s event.Server) ([]byte, error) { panic("stub") }

// PutServerRecord keeps a verified record.
func (tx *Tx) PutServerRecord(s event.Server, raw []byte) error { panic("stub") }

// ServerRecords returns all kept records.
func (tx *Tx) ServerRecords() (map[event.Server][]byte, error) { panic("stub") }

// Counts are totals kept as they change.
type Counts struct {
	Users        int   // accounts not deactivated
	LocalEvents  int64 // accepted events made by this node
	RemoteEvents int64 // accepted events of others
	Rooms        int   // rooms held here
	Federated    int   // of these, with joined users of other servers
}

// Counts returns the totals.
func (tx *Tx) Counts() (Counts, error) { panic("stub") }
