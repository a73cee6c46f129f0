import java.io.IOException;

/** Ends the process when whoever started it closes its input. */
final class UntilInputEnds {
    private UntilInputEnds() {}

    static void start() {
        Thread watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // nothing is said on it
                }
            } catch (IOException e) {
                // the same as its end
            }
            Runtime.getRuntime().halt(0);
        });
        watcher.setDaemon(true);
        watcher.start();
    }
}
