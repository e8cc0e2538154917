// Debezium's embedded engine, read to nothing: Debezium PORT DATABASE SLOT PUBLICATION RECORDS
// Prints the seconds that it needed before the first record came.
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

public class Debezium {
  public static void main(String[] args) throws Exception {
    var began = System.nanoTime();
    var wanted = Long.parseLong(args[4]);
    var p = new Properties();
    p.put("name", "bench");
    p.put("topic.prefix", "bench");
    p.put("connector.class", "io.debezium.connector.postgresql.PostgresConnector");
    p.put("offset.storage", "org.apache.kafka.connect.storage.MemoryOffsetBackingStore");
    p.put("database.hostname", "127.0.0.1");
    p.put("database.port", args[0]);
    p.put("database.user", "dms");
    p.put("database.password", "none");
    p.put("database.dbname", args[1]);
    p.put("plugin.name", "pgoutput");
    p.put("slot.name", args[2]);
    p.put("slot.drop.on.stop", "false");
    p.put("publication.name", args[3]);
    p.put("publication.autocreate.mode", "disabled");
    p.put("snapshot.mode", "no_data");
    p.put("tombstones.on.delete", "false");
    p.put("key.converter.schemas.enable", "false");
    p.put("value.converter.schemas.enable", "false");
    p.put("max.batch.size", "16384");
    p.put("max.queue.size", "65536");
    p.put("poll.interval.ms", "10");
    var first = new AtomicLong();
    var records = new AtomicLong();
    var done = new CountDownLatch(1);
    DebeziumEngine<ChangeEvent<String, String>> engine =
        DebeziumEngine.create(Json.class)
            .using(p)
            .notifying(
                (batch, committer) -> {
                  first.compareAndSet(0, System.nanoTime());
                  for (var record : batch) committer.markProcessed(record);
                  committer.markBatchFinished();
                  if (records.addAndGet(batch.size()) >= wanted) done.countDown();
                })
            .using(
                (succeeded, message, error) -> {
                  if (!succeeded) System.err.println(message + " " + error);
                  done.countDown();
                })
            .build();
    Executors.newSingleThreadExecutor().execute(engine);
    done.await();
    System.out.println((first.get() - began) / 1e9);
    System.out.flush();
    Runtime.getRuntime().halt(records.get() == wanted ? 0 : 1);
  }
}
