package store

import "context"

// Check verifies the invariants.
func (s *Store) Check(ctx context.Context) error {
	if err := s.begin(&s.calls); err != nil {
		return err
	}
	defer s.calls.Done()
	return s.check(ctx)
}

func (s *Store) check(context.Context) error { return nil }
