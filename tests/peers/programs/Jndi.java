// JNDI, as Java applications use it. Reads its task from the environment, prints one "name=value" line per check.
// Run as a source file: java Jndi.java

import java.io.FileInputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Hashtable;
import java.util.List;
import javax.naming.AuthenticationException;
import javax.naming.Context;
import javax.naming.NamingEnumeration;
import javax.naming.NamingException;
import javax.naming.directory.Attribute;
import javax.naming.directory.DirContext;
import javax.naming.directory.SearchControls;
import javax.naming.directory.SearchResult;
import javax.naming.ldap.Control;
import javax.naming.ldap.InitialLdapContext;
import javax.naming.ldap.LdapContext;
import javax.naming.ldap.PagedResultsControl;
import javax.naming.ldap.PagedResultsResponseControl;
import javax.naming.ldap.SortControl;
import javax.naming.ldap.SortKey;
import javax.naming.ldap.StartTlsRequest;
import javax.naming.ldap.StartTlsResponse;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Jndi {
    static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    static String env(String name) {
        return System.getenv(name);
    }

    static Hashtable<String, Object> settings(String url) {
        Hashtable<String, Object> settings = new Hashtable<>();
        settings.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.ldap.LdapCtxFactory");
        settings.put(Context.PROVIDER_URL, url);
        settings.put(Context.REFERRAL, "ignore");
        settings.put("com.sun.jndi.ldap.connect.timeout", "20000");
        settings.put("com.sun.jndi.ldap.read.timeout", "20000");
        return settings;
    }

    static LdapContext bound(String url, String dn, String password) throws NamingException {
        Hashtable<String, Object> settings = settings(url);
        settings.put(Context.SECURITY_AUTHENTICATION, "simple");
        settings.put(Context.SECURITY_PRINCIPAL, dn);
        settings.put(Context.SECURITY_CREDENTIALS, password);
        return new InitialLdapContext(settings, null);
    }

    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (FileInputStream in = new FileInputStream(file)) {
            store.setCertificateEntry("directory", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static SearchControls subtree(String... attributes) {
        return new SearchControls(SearchControls.SUBTREE_SCOPE, 0, 0, attributes, false, false);
    }

    static List<String> values(NamingEnumeration<SearchResult> results, String name) throws NamingException {
        List<String> found = new ArrayList<>();
        while (results.hasMore()) {
            Attribute attribute = results.next().getAttributes().get(name);
            for (int i = 0; attribute != null && i < attribute.size(); i++) {
                found.add((String) attribute.get(i));
            }
        }
        Collections.sort(found);
        return found;
    }

    static String refusal(String dn, String password) throws NamingException {
        try {
            bound(env("LDAP_URL"), dn, password).close();
            return "accepted";
        } catch (AuthenticationException error) {
            return error.getMessage().replaceAll("(?s).*error code (\\d+).*", "$1");
        }
    }

    static String paged(LdapContext context) throws NamingException, IOException {
        List<String> names = new ArrayList<>();
        int pages = 0;
        byte[] cookie = null;
        do {
            context.setRequestControls(new Control[] {new PagedResultsControl(10, cookie, Control.CRITICAL)});
            names.addAll(values(context.search(env("USERS"), "(objectClass=user)", subtree("cn")), "cn"));
            pages++;
            cookie = null;
            for (Control control : context.getResponseControls()) {
                if (control instanceof PagedResultsResponseControl) {
                    cookie = ((PagedResultsResponseControl) control).getCookie();
                }
            }
        } while (cookie != null);
        context.setRequestControls(null);
        Collections.sort(names);
        out.println("pages=" + pages);
        return String.join(",", names);
    }

    /** Names of two people, the server's order kept: RFC 2891, from the last to the first. */
    static String sorted(LdapContext context) throws NamingException, IOException {
        SortKey key = new SortKey("cn", false, null);
        context.setRequestControls(new Control[] {new SortControl(new SortKey[] {key}, Control.CRITICAL)});
        NamingEnumeration<SearchResult> results = context.search(env("USERS"), "(|(cn=alice)(cn=bob))", subtree("cn"));
        List<String> names = new ArrayList<>();
        while (results.hasMore()) {
            names.add((String) results.next().getAttributes().get("cn").get());
        }
        context.setRequestControls(null);
        return String.join(",", names);
    }

    static String startTls(String certificate) throws Exception {
        LdapContext context = new InitialLdapContext(settings(env("LDAP_URL")), null);
        try {
            StartTlsResponse tls = (StartTlsResponse) context.extendedOperation(new StartTlsRequest());
            tls.negotiate(trusting(certificate).getSocketFactory());
            context.addToEnvironment(Context.SECURITY_AUTHENTICATION, "simple");
            context.addToEnvironment(Context.SECURITY_PRINCIPAL, env("SEARCH_DN"));
            context.addToEnvironment(Context.SECURITY_CREDENTIALS, env("SEARCH_PASSWORD"));
            context.reconnect(null);
            return "" + !values(context.search(env("USERS"), "(cn=alice)", subtree("cn")), "cn").isEmpty();
        } catch (javax.net.ssl.SSLException error) {
            return "untrusted";
        } finally {
            context.close();
        }
    }

    public static void main(String[] arguments) throws Exception {
        SSLContext.setDefault(trusting(env("CERTIFICATE")));
        out.println("wrong=" + refusal(env("ALICE_DN"), "wrong"));
        out.println("alice=" + refusal(env("ALICE_DN"), env("ALICE_PASSWORD")));
        out.println("joerg=" + refusal(env("JOERG_DN"), env("JOERG_PASSWORD")));

        LdapContext context = bound(env("LDAP_URL"), env("SEARCH_DN"), env("SEARCH_PASSWORD"));
        String filter = "(sAMAccountName={0})";
        Object[] name = {env("JOERG_NAME")};
        out.println("name=" + values(context.search(env("USERS"), filter, name, subtree("displayName")), "displayName").get(0));
        out.println("people=" + paged(context));
        Object[] group = {env("STAFF_DN")};
        out.println("staff=" + String.join(",", values(context.search(env("USERS"), "(memberOf={0})", group, subtree("cn")), "cn")));

        out.println("sorted=" + sorted(context));

        // A compare, in JNDI's way of asking for one (RFC 4511 section 4.10).
        SearchControls compare = new SearchControls(SearchControls.OBJECT_SCOPE, 0, 0, new String[0], false, false);
        Object[] member = {env("ALICE_DN")};
        out.println("member=" + context.search(env("STAFF_DN"), "(member={0})", member, compare).hasMore());

        // Followed or thrown, there is no referral to meet.
        for (String mode : new String[] {"follow", "throw"}) {
            context.addToEnvironment(Context.REFERRAL, mode);
            out.println(mode + "=" + values(context.search(env("USERS"), "(cn=alice)", subtree("cn")), "cn"));
        }

        // The schema is read from the subschema entry and parsed by JNDI.
        DirContext schema = context.getSchema("");
        out.println("syntax=" + ((DirContext) schema.lookup("AttributeDefinition/uidNumber")).getAttributes("").get("SYNTAX").get());
        out.println("class=" + ((DirContext) schema.lookup("ClassDefinition/posixAccount")).getAttributes("").get("NAME").get());
        context.close();

        out.println("starttls=" + startTls(env("CERTIFICATE")));
        out.println("other=" + startTls(env("OTHER_CERTIFICATE")));
        LdapContext secure = bound(env("LDAPS_URL"), env("SEARCH_DN"), env("SEARCH_PASSWORD"));
        out.println("ldaps=" + !values(secure.search(env("USERS"), "(cn=alice)", subtree("cn")), "cn").isEmpty());
        secure.close();
    }
}
