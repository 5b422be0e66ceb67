import io.temporal.client.WorkflowClient;
import io.temporal.failure.ApplicationFailure;
import io.temporal.serviceclient.WorkflowServiceStubs;
import io.temporal.serviceclient.WorkflowServiceStubsOptions;
import io.temporal.worker.WorkerFactory;
import io.temporal.worker.WorkerFactoryOptions;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import io.temporal.workflow.SignalMethod;
import java.util.Map;

/** The workflows of the tests in Java: doubles a number, or refuses a negative one; waits for a signal. */
public class JavaWorker {
  @WorkflowInterface
  public interface JavaDouble {
    @WorkflowMethod(name = "JavaDouble")
    int run(Map<String, Integer> payload);
  }

  public static class JavaDoubleImpl implements JavaDouble {
    public int run(Map<String, Integer> payload) {
      int n = payload.get("n");
      if (n < 0) {
        String why = n + " is not accepted";
        throw ApplicationFailure.newNonRetryableFailure(why, "Refused", Map.of("_tag", "Refused", "why", why));
      }
      return n * 2;
    }
  }

  @WorkflowInterface
  public interface JavaHold {
    @WorkflowMethod(name = "JavaHold")
    String run(Map<String, Integer> payload);

    @SignalMethod(name = "go")
    void go(String text);
  }

  public static class JavaHoldImpl implements JavaHold {
    private String said;

    public String run(Map<String, Integer> payload) {
      Workflow.await(() -> said != null);
      return said;
    }

    public void go(String text) {
      said = text;
    }
  }

  public static void main(String[] args) {
    WorkflowServiceStubs service = WorkflowServiceStubs.newServiceStubs(
        WorkflowServiceStubsOptions.newBuilder().setTarget(args[0]).build());
    WorkerFactory factory = WorkerFactory.newInstance(WorkflowClient.newInstance(service),
        // the test server knows no sticky queues
        WorkerFactoryOptions.newBuilder().setWorkflowCacheSize(0).build());
    factory.newWorker(args[1])
        .registerWorkflowImplementationTypes(JavaDoubleImpl.class, JavaHoldImpl.class);
    factory.start();
    System.out.println("started");
  }
}
