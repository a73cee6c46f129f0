import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/** An echo server on plain java.nio: one thread, one selector, a direct buffer for each connection. It ends when its input does. */
public final class NioEcho {
    private static final int BUFFER_BYTES = 16 << 10;

    private NioEcho() {}

    public static void main(String[] args) throws IOException {
        Selector selector = Selector.open();
        ServerSocketChannel server = ServerSocketChannel.open();
        server.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 1024);
        server.configureBlocking(false);
        server.register(selector, SelectionKey.OP_ACCEPT);
        System.out.println("127.0.0.1:" + ((InetSocketAddress) server.getLocalAddress()).getPort() + "/" + ProcessHandle.current().pid());
        UntilInputEnds.start();
        for (;;) {
            selector.select(key -> {
                try {
                    if (key.isAcceptable()) {
                        accept(server, selector);
                    } else {
                        serve(key);
                    }
                } catch (IOException e) {
                    key.cancel();
                    try {
                        key.channel().close();
                    } catch (IOException ignored) {
                        // it is gone either way
                    }
                }
            });
        }
    }

    private static void accept(ServerSocketChannel server, Selector selector) throws IOException {
        for (SocketChannel c = server.accept(); c != null; c = server.accept()) {
            c.configureBlocking(false);
            c.setOption(StandardSocketOptions.TCP_NODELAY, true);
            c.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(BUFFER_BYTES));
        }
    }

    /** Sends back what has arrived. While the peer does not take it all, nothing more is read from that peer. */
    private static void serve(SelectionKey key) throws IOException {
        SocketChannel c = (SocketChannel) key.channel();
        ByteBuffer buffer = (ByteBuffer) key.attachment();
        if (key.isReadable()) {
            if (c.read(buffer) < 0) {
                key.cancel();
                c.close();
                return;
            }
        }
        buffer.flip();
        c.write(buffer);
        boolean left = buffer.hasRemaining();
        buffer.compact();
        int wanted = left ? SelectionKey.OP_WRITE : SelectionKey.OP_READ;
        if (key.interestOps() != wanted) {
            key.interestOps(wanted);
        }
    }
}
