package cloudbuild

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var listed = regexp.MustCompile(`(?m)^(_[A-Z]+) (\S+:\S+)$`)

// pinned are the images that pins.sh looks up, by the substitution's name, each with its tag.
func pinned(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("pins.sh")
	require.NoError(t, err)
	images := map[string]string{}
	for _, m := range listed.FindAllStringSubmatch(string(text), -1) {
		images[m[1]] = m[2]
	}
	require.NotEmpty(t, images)
	return images
}

func TestPins_AreTheImagesThatBuildsUseAndTerraformAsksFor(t *testing.T) {
	images := pinned(t)
	used := map[string]bool{}
	for _, file := range files {
		build, text := read(t, file)
		for _, step := range build.Steps {
			require.Regexp(t, `^\$\{_[A-Z]+\}$`, step.Name, "%s: %s", file, step.Id)
		}
		for _, name := range uses(text) {
			if images[name] != "" {
				used[name] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(images))
	require.Equal(t, names, slices.Sorted(maps.Keys(used)))
	variables, err := os.ReadFile("../../terraform/variables.tf")
	require.NoError(t, err)
	require.Contains(t, string(variables), `["`+strings.Join(names, `", "`)+`"], keys(var.pins)`)
}

func TestPins_AreTheBasesThatTheDockerfilesName(t *testing.T) {
	images := pinned(t)
	for file, bases := range map[string]map[string]string{
		"front": {"GOLANG": "_GOLANG", "BASE": "_STATIC"},
		"pool":  {"GOLANG": "_GOLANG", "BASE": "_DEBIAN", "NODE": "_NODE"},
	} {
		text, err := os.ReadFile("../docker/" + file + ".Dockerfile")
		require.NoError(t, err)
		for arg, pin := range bases {
			require.Contains(t, string(text), "\nARG "+arg+"="+images[pin]+"\n")
		}
	}
}

// A trigger's build isn't refused by Cloud Build itself.
func TestPins_ABuildWithoutOneIsRefused(t *testing.T) {
	images := pinned(t)
	for _, file := range files {
		m := newMachine(t)
		out, err := m.run(file, "pins")
		require.NoError(t, err, out)
		_, err = m.run(file, "pins", "_SDK", images["_SDK"], "_DOCKER", images["_DOCKER"])
		require.Error(t, err, "%s: by tag", file)
		_, text := read(t, file)
		for _, name := range uses(text) {
			if images[name] == "" {
				continue
			}
			for _, value := range []string{"", "example.com/image@" + digest + "0"} {
				out, err := m.run(file, "pins", name, value)
				require.Error(t, err, "%s: %s=%s", file, name, value)
				require.Contains(t, out, "'"+value+"' is no image by digest: make pins")
			}
		}
	}
}

// folder is one with the script and the builds, and a go that knows digests.
func folder(t *testing.T, digests string) (dir string, run func(args ...string) (string, error)) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"infra/cloudbuild", "terraform", "bin"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	for _, name := range []string{"pins.sh", "test.yaml"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "infra/cloudbuild", name), text, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/go"), []byte("#!/bin/sh\n"+digests), 0o755))
	return dir, func(args ...string) (string, error) {
		cmd := exec.Command(filepath.Join(dir, "infra/cloudbuild/pins.sh"), args...)
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + filepath.Join(dir, "bin") + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

func TestPins_AreWrittenAsTerraformAndSubmitTakeThem(t *testing.T) {
	dir, run := folder(t, `cat; case "$*" in "run github.com/google/go-containerregistry/cmd/crane@v"*" digest "*:*) `+
		`echo `+digest+`;; *) exit 1;; esac`)
	out, err := run()
	require.NoError(t, err, out)
	text, err := os.ReadFile(filepath.Join(dir, "terraform/pins.auto.tfvars.json"))
	require.NoError(t, err)
	var file struct{ Pins map[string]string }
	require.NoError(t, json.Unmarshal(text, &file))
	images := pinned(t)
	require.Len(t, file.Pins, len(images))
	for name, image := range images {
		require.Equal(t, image[:strings.LastIndex(image, ":")]+"@"+digest, file.Pins[name])
	}
	out, err = run("infra/cloudbuild/test.yaml")
	require.NoError(t, err, out)
	require.ElementsMatch(t, strings.Split(strings.TrimSpace(out), ","), []string{
		"_DOCKER=" + file.Pins["_DOCKER"], "_EMULATORS=" + file.Pins["_EMULATORS"], "_GOLANG=" + file.Pins["_GOLANG"],
	})
}

func TestPins_StayAsTheyAreWhereOneCannotBeLookedUp(t *testing.T) {
	dir, run := folder(t, `case "$*" in *node:*) exit 1;; esac; echo `+digest)
	before := filepath.Join(dir, "terraform/pins.auto.tfvars.json")
	require.NoError(t, os.WriteFile(before, []byte("before"), 0o644))
	_, err := run()
	require.Error(t, err)
	text, err := os.ReadFile(before)
	require.NoError(t, err)
	require.Equal(t, "before", string(text))
}
