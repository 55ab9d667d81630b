// Package emulator runs the Firestore emulator.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"claudepool/infra/testkit"
)

const (
	jar   = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
	class = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"

	// readyWithin bounds a start. An emulator that has only just come up takes seconds for a call on a busy machine,
	// longer than the calls of a service may: it isn't ready until its calls take less than readyCall.
	readyWithin = 2 * time.Minute
	readyCall   = 250 * time.Millisecond
)

// shortLived are Java's flags for a program that ends before it has made good what optimizing it and collecting its
// garbage on several threads cost: it takes a third less of the processors.
var shortLived = []string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}

// ErrMissing says that this machine has no emulator.
var ErrMissing = errors.New("the Firestore emulator or java is not installed")

// Start starts an emulator at an address of the loopback, and waits until it answers as fast as the real one would. It
// writes its log into the folder. With an error, too, there may be a process.
func Start(ctx context.Context, folder, addr string) (*testkit.Process, error) {
	path, err := findJar()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	args := append(slices.Clone(shortLived), "-cp", path, class, "--host="+host, "--port="+port)
	p, err := testkit.Start(folder, nil, "java", args...)
	if err != nil {
		return nil, err
	}
	err = p.Await(ctx, "the Firestore emulator", readyWithin, func() (bool, error) { return serves(ctx, addr) })
	if err != nil {
		return p, err
	}
	return p, warmUp(ctx, addr)
}

// serves reports whether the emulator says that it does.
func serves(ctx context.Context, addr string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return false, err
	}
	r.Close = true                        // no connection is left idle
	answer, err := new(http.Client).Do(r) // the default one may be for fronts only
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode == http.StatusOK && string(body) == "Ok\n", err
}

// Connect returns a client of a project in the emulator at an address, which has to be closed. It doesn't look at
// FIRESTORE_EMULATOR_HOST, which tests that run at the same time would have in common.
func Connect(ctx context.Context, addr, project string) (*firestore.Client, error) {
	return firestore.NewClient(ctx, project, option.WithEndpoint(addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
}

// warmUp makes calls until they are fast.
func warmUp(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	client, err := Connect(ctx, addr, "warm-up")
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		start := time.Now()
		if err := calls(ctx, client); err != nil {
			return fmt.Errorf("the emulator does not come up: %w", err)
		}
		if time.Since(start) < readyCall {
			return nil
		}
	}
}

// calls makes one of each kind of call that the service makes.
func calls(ctx context.Context, client *firestore.Client) error {
	all := client.Collection("warm-up")
	doc := all.Doc("one")
	if _, err := doc.Set(ctx, map[string]any{"at": time.Now()}); err != nil {
		return err
	}
	err := client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		if _, err := tx.Get(doc); err != nil {
			return err
		}
		return tx.Set(doc, map[string]any{"at": time.Now()})
	})
	if err != nil {
		return err
	}
	if _, err = all.Where("at", ">", time.Time{}).Documents(ctx).GetAll(); err != nil {
		return err
	}
	_, err = doc.Delete(ctx)
	return err
}

func findJar() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", ErrMissing
	}
	roots := []string{"/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk"}
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if real, err := filepath.EvalSymlinks(gcloud); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(real)))
		}
	}
	for _, root := range roots {
		if path := filepath.Join(root, jar); exists(path) {
			return path, nil
		}
	}
	return "", ErrMissing
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
