package main

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed java/*.java
var javaSources embed.FS

// classPath is Netty of Debian's libnetty-java. The package is built without Netty's native transport, so Netty runs on NIO.
// Its netty-all.jar is empty; these are the parts.
const classPath = "/usr/share/java/netty-common.jar:/usr/share/java/netty-buffer.jar:/usr/share/java/netty-resolver.jar:/usr/share/java/netty-transport.jar" +
	":/usr/share/java/netty-transport-native-unix-common.jar:/usr/share/java/netty-transport-native-epoll.jar:/usr/share/java/jctools-core.jar"

// javaMains are the classes of the kinds that run on Java.
var javaMains = map[string]string{"nio": "NioEcho", "netty": "NettyEcho"}

// compileJava compiles the Java servers into dir.
func compileJava(dir string) error {
	if _, err := exec.LookPath("javac"); err != nil {
		return fmt.Errorf("javac is missing: apt-get install default-jdk-headless (scripts/install-bench-deps.sh does)")
	}
	for jar := range strings.SplitSeq(classPath, ":") {
		if _, err := os.Stat(jar); err != nil {
			return fmt.Errorf("%w: apt-get install libnetty-java (scripts/install-bench-deps.sh does)", err)
		}
	}
	entries, err := javaSources.ReadDir("java")
	if err != nil {
		return err
	}
	command := []string{"-nowarn", "-cp", classPath, "-d", dir}
	for _, e := range entries {
		source, err := javaSources.ReadFile("java/" + e.Name())
		if err != nil {
			return err
		}
		path := filepath.Join(dir, e.Name())
		if err := os.WriteFile(path, source, 0o600); err != nil {
			return err
		}
		command = append(command, path)
	}
	if out, err := exec.Command("javac", command...).CombinedOutput(); err != nil {
		return fmt.Errorf("javac: %w: %s", err, out)
	}
	return nil
}

// javaCommand runs a Java server. Buffer leak detection, which samples, is off: it is for development.
func javaCommand(kind, dir string) []string {
	return []string{"java", "-Dio.netty.leakDetection.level=disabled", "-cp", classPath + ":" + dir, javaMains[kind]}
}
