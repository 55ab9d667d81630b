package workspace

// Space is what files take.
type Space struct {
	Bytes int64 // on disk
	Files int64 // directories and links too
}

// Within reports whether s is no more than limit, neither in bytes nor in files.
func (s Space) Within(limit Space) bool { return s.Bytes <= limit.Bytes && s.Files <= limit.Files }

// Plus is both together.
func (s Space) Plus(o Space) Space { return Space{s.Bytes + o.Bytes, s.Files + o.Files} }

// Minus is the difference. It may be negative.
func (s Space) Minus(o Space) Space { return Space{s.Bytes - o.Bytes, s.Files - o.Files} }

// Part is an nth.
func (s Space) Part(n int64) Space { return Space{s.Bytes / n, s.Files / n} }

// Max has the larger number of bytes and that of files, each by itself.
func (s Space) Max(o Space) Space { return Space{max(s.Bytes, o.Bytes), max(s.Files, o.Files)} }

// Min has the smaller number of bytes and that of files, each by itself.
func (s Space) Min(o Space) Space { return Space{min(s.Bytes, o.Bytes), min(s.Files, o.Files)} }
