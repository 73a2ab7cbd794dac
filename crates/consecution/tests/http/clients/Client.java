import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Arrays;
import java.util.Random;

/**
 * Posts bodies of the given sizes to URLs, and looks whether they come back. Its
 * arguments: the sizes, with commas between them, and the URLs.
 */
class Client {
    public static void main(String[] arguments) throws Exception {
        for (String size : arguments[0].split(",")) {
            byte[] body = new byte[Integer.parseInt(size)];
            new Random(body.length).nextBytes(body);
            for (int at = 1; at < arguments.length; at++) {
                URI url = URI.create(arguments[at]);
                compare(url, "HttpURLConnection", body, connection(url, body, Mode.BUFFERED));
                compare(url, "with a fixed length", body, connection(url, body, Mode.FIXED));
                compare(url, "in chunks", body, connection(url, body, Mode.CHUNKED));
                compare(url, "HttpClient", body, client(url, body));
            }
        }
    }

    enum Mode { BUFFERED, FIXED, CHUNKED }

    /** It sends all of the body before it reads a byte. */
    static byte[] connection(URI url, byte[] body, Mode mode) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
        connection.setDoOutput(true);
        connection.setReadTimeout(120_000);
        switch (mode) {
            case BUFFERED -> { }
            case FIXED -> connection.setFixedLengthStreamingMode(body.length);
            case CHUNKED -> connection.setChunkedStreamingMode(0);
        }
        try (OutputStream output = connection.getOutputStream()) {
            output.write(body);
        }
        return connection.getInputStream().readAllBytes();
    }

    static byte[] client(URI url, byte[] body) throws Exception {
        HttpClient.Version version = url.getScheme().equals("https")
            ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        HttpClient client = HttpClient.newBuilder().version(version).build();
        HttpRequest request =
            HttpRequest.newBuilder(url).POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
        HttpResponse<byte[]> reply =
            client.send(request, HttpResponse.BodyHandlers.ofByteArray());
        if (reply.statusCode() != 200 || reply.version() != version) {
            throw new IllegalStateException(reply.version() + ", status " + reply.statusCode());
        }
        return reply.body();
    }

    static void compare(URI url, String name, byte[] sent, byte[] got) {
        if (!Arrays.equals(sent, got)) {
            throw new IllegalStateException(
                url + ", " + name + ": " + got.length + " bytes of " + sent.length + " came back");
        }
        System.out.println(url + " " + sent.length + " " + name);
    }
}
