package pool_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lockFiles are where the pool's lock is taken, and all that runs while it is held.
var lockFiles = []string{"pool.go", "user.go", "conversation.go", "release.go", "slot.go", "capacity.go", "mirror.go"}

// own are types with a lock of their own, whose methods may say …Locked in other files.
var own = []string{"admission"}

func TestLock_IsTakenInFewFilesAndNothingElseRunsUnderIt(t *testing.T) {
	locked := map[string]string{} // functions that need it held, by name
	for name, file := range sources(t) {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || slices.Contains(own, receiver(f)) {
				continue
			}
			if strings.HasSuffix(f.Name.Name, "Locked") {
				locked[f.Name.Name] = name
				require.Contains(t, lockFiles, name, "%s needs the lock", f.Name.Name)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if takesLock(n) {
					require.Contains(t, lockFiles, name, "%s takes the lock", f.Name.Name)
				}
				return true
			})
		}
	}
	require.NotEmpty(t, locked)
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && locked[call.Sel.Name] != "" {
				require.Contains(t, lockFiles, name, "%s is called where the lock can't be held", call.Sel.Name)
			}
			return true
		})
	}
}

// What keeps standbys asks the pool for room, for which it takes the lock: it is never called with the lock held.
func TestLock_IsNotHeldWhileStandbysAreAskedFor(t *testing.T) {
	asked := 0
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if strings.HasSuffix(n.Name.Name, "Locked") {
					require.Zero(t, countOf("standbys", n.Body), n.Name.Name)
				}
				asked += countOf("standbys", n)
			case *ast.BlockStmt:
				for _, s := range lockedPart(n) {
					require.Zero(t, countOf("standbys", s))
				}
			}
			return true
		})
	}
	require.NotZero(t, asked)
}

// countOf is how often a field of that name is spoken of.
func countOf(field string, in ast.Node) (n int) {
	ast.Inspect(in, func(node ast.Node) bool {
		if s, ok := node.(*ast.SelectorExpr); ok && s.Sel.Name == field {
			n++
		}
		return true
	})
	return n
}

// lockedPart is what a block does from taking the pool's lock to giving it back last, or to its end.
func lockedPart(block *ast.BlockStmt) []ast.Stmt {
	taken := slices.IndexFunc(block.List, func(s ast.Stmt) bool {
		call, ok := s.(*ast.ExprStmt)
		return ok && callsLock(call.X, "Lock")
	})
	if taken < 0 {
		return nil
	}
	part := block.List[taken+1:]
	for i, s := range slices.Backward(part) {
		if call, ok := s.(*ast.ExprStmt); ok && callsLock(call.X, "Unlock") {
			return part[:i]
		}
	}
	return part
}

// A conversation's slot is in the hands of who took it. Nothing but slot.go looks for it where it rests.
func TestSlot_IsReachedThroughWhoHasIt(t *testing.T) {
	found := 0
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "slot" {
				found++
				require.Equal(t, "slot.go", name)
			}
			return true
		})
	}
	require.NotZero(t, found)
}

// rooms are the fields through which the rooms are reached whose work waits for a disk or for the archive.
var rooms = []string{"index", "meter", "dir", "vault"}

func TestLock_NoRoomIsAskedWhereItMayBeHeld(t *testing.T) {
	asked := make(map[string]bool)
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if room := roomOf(n); slices.Contains(rooms, room) {
				asked[room] = true
				require.NotContains(t, lockFiles, name, "%s is asked", room)
			}
			return true
		})
	}
	require.Len(t, asked, len(rooms))
}

// roomOf is the field whose method the node calls or hands on: x in ….x.f.
func roomOf(n ast.Node) string {
	method, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	of, ok := method.X.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	return of.Sel.Name
}

// takesLock reports whether the node is a call of …mu.Lock on a pool, however it is reached.
func takesLock(n ast.Node) bool { return callsLock(n, "Lock") }

func callsLock(n ast.Node, method string) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	lock, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || lock.Sel.Name != method {
		return false
	}
	mu, ok := lock.X.(*ast.SelectorExpr)
	if !ok || mu.Sel.Name != "mu" {
		return false
	}
	switch of := mu.X.(type) {
	case *ast.Ident:
		return of.Name == "p"
	case *ast.SelectorExpr:
		return of.Sel.Name == "pool"
	}
	return false
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	name, _ := of.(*ast.Ident)
	return name.Name
}

// sources are the package's files, without tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		files[name], err = parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
	}
	return files
}
