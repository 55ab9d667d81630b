package pool_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"go/types"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lockFiles are where the table's lock is taken, and all of the module that runs while it is held.
var lockFiles = []string{"table.go", "conversation.go", "slot.go", "capacity.go"}

// lockFree are methods of the standard library that may be called with it held. Those that are named like one of this
// module's are told apart by what they are called on.
var lockFree = []string{"Add", "After", "Back", "Before", "Broadcast", "Err", "Front", "InsertAfter", "Len", "Load",
	"Lock", "Next", "Prev", "PushFront", "Remove", "Store", "Sub", "Unlock", "Wait"}

func TestLock_IsTakenInFewFilesAndNothingElseRunsUnderIt(t *testing.T) {
	files := sources(t)
	info := namesOf(files)
	held := 0
	for name, file := range files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			part := underLock(info, f)
			if len(part) == 0 {
				continue
			}
			held++
			require.Contains(t, lockFiles, name, "%s holds the lock", f.Name.Name)
			for _, s := range part {
				for _, called := range foreign(info, files, s) {
					require.Fail(t, "something else runs under the lock", "%s calls %s", f.Name.Name, called)
				}
			}
		}
	}
	require.Greater(t, held, 50)
}

// What …Locked promises is promised by the table's lock files only, or by types with a lock of their own.
func TestLock_IsHeldByWhoCallsWhatNeedsIt(t *testing.T) {
	files := sources(t)
	info := namesOf(files)
	calls := 0
	for _, file := range files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			part := underLock(info, f)
			ast.Inspect(f.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				callee := calleeOf(info, call)
				if !ok || callee == nil || !needsLock(callee) {
					return true
				}
				calls++
				require.True(t, slices.ContainsFunc(part, func(s ast.Stmt) bool {
					return s.Pos() <= call.Pos() && call.End() <= s.End()
				}), "%s calls %s without the lock", f.Name.Name, callee.Name())
				return true
			})
		}
	}
	require.Greater(t, calls, 50)
}

// namesOf finds out what names of the package stand for. What other packages have stays unknown.
func namesOf(files map[string]*ast.File) *types.Info {
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: nothing{}, Error: func(error) {}}
	_, _ = conf.Check("pool", fileSet, slices.Collect(maps.Values(files)), info) // there are errors, as imports are empty
	return info
}

// nothing imports packages as empty ones.
type nothing struct{}

func (nothing) Import(name string) (*types.Package, error) {
	p := types.NewPackage(name, path.Base(name))
	p.MarkComplete()
	return p, nil
}

// underLock is what a function does with the table's lock held.
func underLock(info *types.Info, f *ast.FuncDecl) (part []ast.Stmt) {
	if obj, ok := info.Defs[f.Name].(*types.Func); ok && needsLock(obj) {
		return f.Body.List
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if block, ok := n.(*ast.BlockStmt); ok {
			part = append(part, lockedPart(info, block)...)
		}
		return true
	})
	return part
}

// lockedPart is what a block does from taking the table's lock to giving it back last, or to its end.
func lockedPart(info *types.Info, block *ast.BlockStmt) []ast.Stmt {
	is := func(s ast.Stmt, method string) bool {
		call, ok := s.(*ast.ExprStmt)
		return ok && callsLock(info, call.X, method)
	}
	taken := slices.IndexFunc(block.List, func(s ast.Stmt) bool { return is(s, "Lock") })
	if taken < 0 {
		return nil
	}
	part := block.List[taken+1:]
	for i, s := range slices.Backward(part) {
		if is(s, "Unlock") {
			return part[:i]
		}
	}
	return part
}

// callsLock reports whether the expression calls that method of the table's lock, however it is reached.
func callsLock(info *types.Info, e ast.Expr, method string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	lock, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || lock.Sel.Name != method {
		return false
	}
	mu, ok := lock.X.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, _ := info.Uses[mu.Sel].(*types.Var)
	return of != nil && of == tableLock(of.Pkg())
}

// tableLock is the field that is the table's lock.
func tableLock(p *types.Package) *types.Var {
	table := p.Scope().Lookup("table").Type().Underlying().(*types.Struct)
	for field := range table.Fields() {
		if field.Name() == "mu" {
			return field
		}
	}
	return nil
}

// needsLock reports whether the function is to be called with the table's lock held. Types with a lock of their own
// have such functions, too.
func needsLock(f *types.Func) bool {
	if !strings.HasSuffix(f.Name(), "Locked") {
		return false
	}
	recv := f.Signature().Recv()
	if recv == nil {
		return true
	}
	of := recv.Type()
	if p, ok := of.(*types.Pointer); ok {
		of = p.Elem()
	}
	s, ok := of.Underlying().(*types.Struct)
	if !ok || of == f.Pkg().Scope().Lookup("table").Type() {
		return true
	}
	for field := range s.Fields() {
		if field.Name() == "mu" {
			return false
		}
	}
	return true
}

// calleeOf is the package's own function that is called, or nil.
func calleeOf(info *types.Info, call *ast.CallExpr) *types.Func {
	if call == nil {
		return nil
	}
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		f, _ := info.Uses[fun].(*types.Func)
		return f
	case *ast.SelectorExpr:
		f, _ := info.Uses[fun.Sel].(*types.Func)
		return f
	}
	return nil
}

// foreign is what is called, or begun, that is neither in the table's lock files nor in the standard library.
func foreign(info *types.Info, files map[string]*ast.File, in ast.Node) (names []string) {
	ast.Inspect(in, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.FuncLit:
			names = append(names, "a function of its own")
		case *ast.CallExpr:
			if !isOfLock(info, files, n) {
				names = append(names, types.ExprString(n.Fun))
			}
		}
		return true
	})
	return names
}

// isOfLock reports whether what is called may be called with the table's lock held.
func isOfLock(info *types.Info, files map[string]*ast.File, call *ast.CallExpr) bool {
	if f := calleeOf(info, call); f != nil {
		return slices.ContainsFunc(lockFiles, func(name string) bool {
			return files[name].FileStart <= f.Pos() && f.Pos() < files[name].FileEnd
		})
	}
	switch fun := call.Fun.(type) {
	case *ast.Ident: // a conversion, or something built in
		switch info.Uses[fun].(type) {
		case *types.Builtin, *types.TypeName:
			return true
		}
	case *ast.SelectorExpr:
		if of, ok := fun.X.(*ast.Ident); ok {
			if p, ok := info.Uses[of].(*types.PkgName); ok {
				return !strings.Contains(p.Imported().Path(), ".") && !strings.HasPrefix(p.Imported().Path(), "claudepool/")
			}
		}
		return slices.Contains(lockFree, fun.Sel.Name)
	}
	return false
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

var fileSet = gotoken.NewFileSet()

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
		files[name], err = parser.ParseFile(fileSet, name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
	}
	return files
}
